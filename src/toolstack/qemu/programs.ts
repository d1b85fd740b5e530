/** Finds the QEMU that libxl starts for a domain. */
import { readdir, realpath } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { textOf } from '../../memfile/libxl-fields.ts';
import { runProgram, searchPath } from '../process/run.ts';

/** Time limit in milliseconds for a program that only reports about itself; software emulation is slow. */
const TIMEOUT_MS = 60_000;

/** A QEMU for Xen. */
export interface QemuProgram {
  readonly path: string;
  readonly version: string;
}

/**
 * Finds the device models that libxl may start, the usual places first: which of them it starts was decided
 * when it was built. That of a running domain is asked by QMP.
 * @param config of a domain that may name its own
 * @returns those that run, each once
 */
export async function findQemus(
  config?: LibxlConfig,
  places = qemuPlaces(),
): Promise<readonly QemuProgram[]> {
  const stated = textOf(config, 'b_info', 'device_model');
  const found = new Map<string, QemuProgram>();
  for (const path of stated === undefined ? await places : [stated]) {
    const program = await realpath(path).catch(() => undefined);
    if (program === undefined || found.has(program)) continue;
    const version = await versionOf(path);
    if (version !== undefined) found.set(program, { path, version });
  }
  return [...found.values()];
}

async function versionOf(path: string): Promise<string | undefined> {
  try {
    const { status, stdout } = await runProgram(path, ['--version'], { timeoutMs: TIMEOUT_MS });
    const [, version] = /version ([0-9][0-9.]*)/.exec(stdout) ?? [];
    return status === 0 ? version : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Lists where libxl's device model may be (its LIBEXEC_BIN/qemu-system-i386, and distributions' own places).
 */
async function qemuPlaces(): Promise<readonly string[]> {
  const versions = await readdir('/usr/lib').catch(() => []);
  const inPath = searchPath().split(delimiter);
  return [
    '/usr/libexec/xen-qemu-system-i386',
    '/usr/libexec/xen/bin/qemu-system-i386',
    '/usr/local/lib/xen/bin/qemu-system-i386',
    ...versions
      .filter((name) => /^xen(-[\d.]+)?$/.test(name))
      .map((name) => `/usr/lib/${name}/bin/qemu-system-i386`),
    ...['qemu-system-i386', 'qemu-system-x86_64'].flatMap((name) =>
      inPath.map((directory) => join(directory, name)),
    ),
  ];
}
