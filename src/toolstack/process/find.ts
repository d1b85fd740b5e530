import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Reads one of a process's files below /proc. */
export type ReadOfProcess = (file: 'comm' | 'cmdline') => Promise<string>;

/**
 * The first process of root or of our own user that is such a one. What other users' processes call themselves is
 * not believed: anybody can start one with any name and any arguments.
 * @returns its pid; `undefined` when there is none
 */
export async function findProcess(
  proc: string,
  matches: (read: ReadOfProcess) => Promise<boolean>,
): Promise<number | undefined> {
  for (const pid of await readdir(proc)) {
    if (!/^[0-9]+$/.test(pid)) continue;
    try {
      // The directory has the effective user of the process, whatever the process did to hide its files.
      const { uid } = await stat(join(proc, pid));
      if (uid !== 0 && uid !== process.getuid?.()) continue;
      if (await matches((file) => readFile(join(proc, pid, file), 'utf8'))) return Number(pid);
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined;
}
