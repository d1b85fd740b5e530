/** Calls xl, and interprets its output. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Domid } from '../../core/brand.ts';
import {
  DomainError,
  EnvironmentError,
  InterruptedError,
  throwIfAborted,
  type XlsnapError,
} from '../../core/errors.ts';
import { isRecord } from '../../core/guards.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { parseLibxlJson } from '../../memfile/libxl-json.ts';
import type { Hypervisor } from '../../snapshot/ports.ts';
import type { XenstoreClient } from '../../xenstore/client.ts';
import { runProgram, runUnkilled } from '../process/run.ts';
import { readStoredDisks } from '../qemu/disks.ts';
import { type DeviceNumbers, loopFile, parseDevice } from '../storage/places.ts';

/**
 * Time limit in milliseconds. `xl list` and the like answer in well under a second; software emulation is
 * slow.
 */
const XL_TIMEOUT_MS = 120_000;
const POLL_MS = 100;

/**
 * Returns the configuration that `xl save` would put into the file's header.
 * @throws {EnvironmentError} If xl fails.
 * @throws {DomainError} If the domain has none yet: DOMAIN_STARTING.
 */
export async function domainConfig(domid: Domid): Promise<LibxlConfig> {
  const { status, stdout, stderr } = await runProgram('xl', ['list', '-l', String(domid)], {
    timeoutMs: XL_TIMEOUT_MS,
  });
  if (status !== 0) throw xlError(`xl list -l ${domid}`, stderr);
  return parseDomainConfig(domid, stdout);
}

/**
 * Parses the output of `xl list -l`.
 * @throws {EnvironmentError} If that is not JSON.
 * @throws {DomainError} If the domain has no configuration yet: DOMAIN_STARTING.
 */
export function parseDomainConfig(domid: Domid, answer: string): LibxlConfig {
  let list: unknown;
  try {
    list = parseLibxlJson(answer);
  } catch {
    throw xlError(`xl list -l ${domid}`, 'its output is not JSON');
  }
  const entry: unknown = Array.isArray(list) ? list[0] : list;
  if (!isRecord(entry)) throw xlError(`xl list -l ${domid}`, 'its output names no domain');
  const { config } = entry;
  if (!isRecord(config)) {
    // xl lists a domain from the moment that Xen has made it; libxl stores its configuration later.
    throw new DomainError('DOMAIN_STARTING', `xl knows no configuration of domain ${domid} yet`, {
      domid,
      hint: 'it is being started or rebooted: try again when it runs; if it runs already, xl did not start it',
    });
  }
  return config;
}

/**
 * Returns the command line that Xen was started with.
 * @throws {EnvironmentError} If xl fails.
 */
export async function xenCommandLine(): Promise<string> {
  const { status, stdout, stderr } = await runProgram('xl', ['info', 'xen_commandline'], {
    timeoutMs: XL_TIMEOUT_MS,
  });
  if (status !== 0) throw xlError('xl info', stderr, 'xl works in a dom0, as root');
  return stdout.trim();
}

function xlError(
  command: string,
  stderr: string,
  hint = 'run that command yourself to see more; was the domain started by xl?',
): EnvironmentError {
  return new EnvironmentError('XL', `${command} failed: ${lastLines(stderr)}`, { hint });
}

/** Returns the end of a program's error output, in one line. */
function lastLines(stderr: string): string {
  return stderr.trim().split('\n').slice(-4).join('; ') || 'it printed nothing';
}

/**
 * Destroys a domain, and waits until Xen has freed it and its QEMU has exited, so that nothing holds its
 * images.
 * @throws {DomainError} If that takes longer than `timeoutMs`, or there was no such domain to begin with: it
 * may run with another domid.
 */
export async function destroyDomain(
  hypervisor: Hypervisor,
  xenstore: XenstoreClient,
  domid: Domid,
  options: { timeoutMs: number; signal?: AbortSignal | undefined },
): Promise<void> {
  const deadline = performance.now() + options.timeoutMs;
  if ((await hypervisor.domainState(domid)) === undefined) {
    throw new DomainError('DESTROY', `there is no domain ${domid} to destroy: it has shut down or rebooted`, {
      domid,
    });
  }
  const pid = await xenstore.readMaybe(`/local/domain/${domid}/image/device-model-pid`);
  const loops = await loopsOf(domid, xenstore);
  // If xl were killed half-way, it would leave half a domain, and entries in xenstore and /var/lib/xen.
  const destroyed = await runUnkilled('xl', ['destroy', String(domid)], options);
  if (!destroyed.ended) throw stillDestroying(domid, destroyed.pid, options);
  const { status, stderr } = destroyed;
  for (;;) {
    const gone = (await hypervisor.domainState(domid)) === undefined;
    const loop = gone ? await firstAttached(loops) : undefined;
    if (gone && !isRunning(pid) && loop === undefined) return;
    throwIfAborted(options.signal);
    if (!gone && status !== 0) {
      throw new DomainError('DESTROY', `xl destroy ${domid} failed: ${lastLines(stderr)}`, { domid });
    }
    if (performance.now() > deadline) {
      const what = !gone
        ? 'the domain still exists'
        : loop === undefined
          ? `its QEMU (pid ${pid}) is still running`
          : `its loop device still has ${loop} open`;
      throw new DomainError('DESTROY_TIMEOUT', `domain ${domid} was destroyed, but ${what}`, {
        domid,
        hint: 'find out what holds it, then run the same command again',
      });
    }
    await sleep(POLL_MS);
  }
}

interface AttachedLoop {
  readonly numbers: DeviceNumbers;
  readonly path: string;
}

/** The loop devices on which blkback serves a domain's disks; libxl's script detaches them once the domain has gone. */
async function loopsOf(domid: Domid, xenstore: XenstoreClient): Promise<readonly AttachedLoop[]> {
  const loops: AttachedLoop[] = [];
  for (const { backend } of await readStoredDisks(domid, xenstore)) {
    const numbers = backend?.domid === 0 ? parseDevice(backend.device) : undefined;
    const file = numbers === undefined ? undefined : await loopFile(numbers);
    if (numbers !== undefined && file !== undefined) loops.push({ numbers, path: file.path });
  }
  return loops;
}

/** The file of the first of them that is still attached to it. */
async function firstAttached(loops: readonly AttachedLoop[]): Promise<string | undefined> {
  for (const { numbers, path } of loops) if ((await loopFile(numbers))?.path === path) return path;
  return undefined;
}

function stillDestroying(
  domid: Domid,
  pid: number,
  { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal | undefined },
): XlsnapError {
  const more = { domid, hint: 'wait until it exits, then run the same command again' };
  if (signal?.aborted === true) {
    const message = `interrupted; xl destroy ${domid} (pid ${pid}) is still running`;
    return new InterruptedError('INTERRUPTED', message, more);
  }
  const message = `xl destroy ${domid} (pid ${pid}) has not exited within ${timeoutMs / 1000} s; it is still running`;
  return new DomainError('DESTROY_TIMEOUT', message, more);
}

function isRunning(pid: string | undefined): boolean {
  if (pid === undefined || !/^\d+$/.test(pid)) return false;
  try {
    process.kill(Number(pid), 0);
    return true;
  } catch {
    return false;
  }
}
