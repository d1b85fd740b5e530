import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Reads one of a process's files below /proc. */
export type ReadOfProcess = (file: 'comm' | 'cmdline') => Promise<string>;

/**
 * The first process that is such a one.
 * @returns its pid; `undefined` when there is none
 */
export async function findProcess(
  proc: string,
  matches: (read: ReadOfProcess) => Promise<boolean>,
): Promise<number | undefined> {
  for (const pid of await readdir(proc)) {
    if (!/^[0-9]+$/.test(pid)) continue;
    try {
      if (await matches((file) => readFile(join(proc, pid, file), 'utf8'))) return Number(pid);
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined;
}
