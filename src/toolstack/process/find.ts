/** Finds and watches running processes, in /proc. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Reads one of a process's files below /proc. */
export type ReadOfProcess = (file: 'comm' | 'cmdline') => Promise<string>;

/**
 * Returns what a process has read, written and computed, as a text to compare; `undefined` if it has ended.
 */
export async function processActivity(pid: number, proc = '/proc'): Promise<string | undefined> {
  try {
    const io = await readFile(join(proc, String(pid), 'io'), 'utf8');
    const stat = await readFile(join(proc, String(pid), 'stat'), 'utf8');
    // proc(5): utime and stime are the 14th and 15th fields; the name before them may contain spaces.
    const times = stat.slice(stat.lastIndexOf(')')).split(' ').slice(12, 14);
    return `${io}${times.join(' ')}`;
  } catch {
    return undefined;
  }
}

/**
 * Finds the first matching process of root or of our own user. Processes of other users are ignored: anyone
 * can start one with any name and any arguments.
 * @returns its pid, or `undefined` if there is none
 */
export async function findProcess(
  proc: string,
  matches: (read: ReadOfProcess) => Promise<boolean>,
): Promise<number | undefined> {
  for (const pid of await readdir(proc)) {
    if (!/^[0-9]+$/.test(pid)) continue;
    try {
      // The directory is owned by the process's effective user, whatever the process did to hide its files.
      const { uid } = await stat(join(proc, pid));
      if (uid !== 0 && uid !== process.getuid?.()) continue;
      if (await matches((file) => readFile(join(proc, pid, file), 'utf8'))) return Number(pid);
    } catch {
      // It has exited in the meantime.
    }
  }
  return undefined;
}
