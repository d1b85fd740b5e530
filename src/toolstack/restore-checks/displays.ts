/** Checks whether the ports of a domain's displays are free: its QEMU does not start if one is in use. */

import { readFile } from 'node:fs/promises';
import type { Problem } from '../../core/problem.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { domainType, fieldOf, flagOf, numberOf, recordsOf, textOf } from '../../memfile/libxl-fields.ts';

/** Port of display 0. */
const VNC_PORT = 5900;
/** libxl's default address (libxl_create.c). */
const VNC_ADDRESS = '127.0.0.1';
/** TCP_LISTEN (include/net/tcp_states.h), as /proc/net/tcp prints it. */
const LISTENING = '0A';

/** A port that a configuration fixes. */
interface FixedPort {
  readonly what: string;
  readonly port: number;
  /** Address on which it listens; `undefined` for all. */
  readonly address: string | undefined;
}

/** A socket that waits for connections. */
export interface Listener {
  readonly port: number;
  /** An IPv4 address; `undefined` for all; `?` if it is not known. */
  readonly address: string | undefined;
}

/**
 * Finds the fixed ports that another program listens on.
 * @param current configuration of the domain that is destroyed before the restore: its ports will be free
 * @param tables the kernel's tables of sockets
 */
export async function displayObstacles(
  config: LibxlConfig,
  current: LibxlConfig | undefined,
  tables: readonly string[] = ['/proc/net/tcp', '/proc/net/tcp6'],
): Promise<Problem[]> {
  const own = current === undefined ? [] : fixedPorts(current).map(({ port }) => port);
  const wanted = fixedPorts(config).filter(({ port }) => !own.includes(port));
  if (wanted.length === 0) return [];
  const taken: Listener[] = [];
  for (const table of tables) taken.push(...listening(await readFile(table, 'latin1').catch(() => '')));
  const meets = (one: string | undefined, other: string | undefined): boolean =>
    one === undefined || other === undefined || one === other;
  return wanted
    .filter(({ port, address }) =>
      taken.some((display) => display.port === port && meets(display.address, address)),
    )
    .map(({ what, port }) => ({
      code: 'DISPLAY_BUSY',
      message: `the domain's ${what} listens on port ${port}, which another program uses`,
      hint: `ss -ltnp shows which: stop it, or shut that domain down`,
    }));
}

function fixedPorts(config: LibxlConfig): readonly FixedPort[] {
  const hvm = domainType(config) === 'hvm';
  const screens = [
    ...(hvm ? [fieldOf(config, 'b_info', 'type.hvm', 'vnc')] : []),
    ...recordsOf(config, 'vfbs').map((vfb) => vfb['vnc']),
  ];
  const ports = screens.flatMap((vnc): FixedPort[] => {
    // Otherwise QEMU looks for a free one.
    if (flagOf(vnc, 'enable') === false || flagOf(vnc, 'findunused') !== false) return [];
    const [, listen = VNC_ADDRESS, stated] =
      /^(.+?)(?::([0-9]{1,4}))?$/.exec(textOf(vnc, 'listen') ?? '') ?? [];
    const display = stated === undefined ? (numberOf(vnc, 'display') ?? 0) : Number(stated);
    return [{ what: 'VNC server', port: VNC_PORT + display, address: addressOf(listen) }];
  });
  const spice = hvm ? fieldOf(config, 'b_info', 'type.hvm', 'spice') : undefined;
  if (flagOf(spice, 'enable') !== true) return ports;
  const spicePorts = ['port', 'tls_port'].flatMap((key) => numberOf(spice, key) ?? []);
  const address = addressOf(textOf(spice, 'host') ?? '');
  return [
    ...ports,
    ...spicePorts.filter((port) => port > 0).map((port) => ({ what: 'SPICE server', port, address })),
  ];
}

function addressOf(listen: string): string | undefined {
  return ['', '0.0.0.0', '::', '[::]'].includes(listen) ? undefined : listen;
}

/** Returns the listening sockets in one of the kernel's tables: `sl local_address rem_address st …`. */
export function listening(table: string): readonly Listener[] {
  return table.split('\n').flatMap((line) => {
    const [, local, , state] = line.trim().split(/ +/);
    const [address, port] = state === LISTENING ? (local?.split(':') ?? []) : [];
    if (address === undefined || port === undefined) return [];
    return [{ port: Number.parseInt(port, 16), address: spelledOut(address) }];
  });
}

/**
 * Parses an address as the kernel prints it: a word of hexadecimal digits in the processor's byte order, or
 * four of them.
 */
function spelledOut(hex: string): string | undefined {
  if (/^0+$/.test(hex)) return undefined;
  if (hex.length !== 8) return '?';
  return [...Buffer.from(hex, 'hex')].reverse().join('.');
}
