/** Finds and watches running processes, in /proc. */
import { closeSync, openSync, readdirSync, readSync } from 'node:fs';
import { readdir, readFile, readlink, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Reads one of a process's files below /proc. */
export type ReadOfProcess = (file: 'comm' | 'cmdline') => Promise<string>;

/** Longest name that the kernel has for a process, with the newline: TASK_COMM_LEN. */
const MAX_COMM_BYTES = 16;
/** More than the fields of /proc/PID/stat take. */
const MAX_STAT_BYTES = 1024;
/** USER_HZ, in which /proc counts time on x86. */
const TICKS_PER_SECOND = 100;

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
 * Returns how far a process has read a file that it has open, in bytes; `undefined` if it has not, or has exited.
 * @param path of the file
 */
export async function filePosition(pid: number, path: string, proc = '/proc'): Promise<number | undefined> {
  const own = join(proc, String(pid));
  try {
    const wanted = await realpath(path);
    for (const fd of await readdir(join(own, 'fd'))) {
      if ((await readlink(join(own, 'fd', fd)).catch(() => '')) !== wanted) continue;
      // proc(5): the first line is `pos:` and the offset.
      const [, position] = /^pos:\s*([0-9]+)/.exec(await readFile(join(own, 'fdinfo', fd), 'utf8')) ?? [];
      if (position !== undefined) return Number(position);
    }
  } catch {
    // It has exited in the meantime.
  }
  return undefined;
}

/**
 * Finds the first matching process of root or of our own user. Processes of other users are ignored: anyone
 * can start one with any name and any arguments.
 * @param pids to look at; default: all
 * @returns its pid, or `undefined` if there is none
 */
export async function findProcess(
  proc: string,
  matches: (read: ReadOfProcess) => Promise<boolean>,
  pids?: readonly string[],
): Promise<number | undefined> {
  for (const pid of pids ?? (await readdir(proc))) {
    if (!isPid(pid)) continue;
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

/**
 * Lists the processes of a name, in this thread: a guest may be stopped now, and the thread pool takes twenty times as
 * long. Reading a process's name never waits.
 * @param comm its name in the kernel, at most 15 characters
 * @param skipped pids that are not looked at
 * @returns their pids
 */
export function pidsNamed(
  comm: string,
  proc: string,
  skipped: ReadonlySet<string> = new Set(),
): readonly string[] {
  const wanted = `${comm}\n`;
  const buffer = Buffer.alloc(MAX_COMM_BYTES);
  const nameOf = (pid: string): string | undefined => readStart(`${proc}/${pid}/comm`, buffer);
  return readdirSync(proc).filter((pid) => isPid(pid) && !skipped.has(pid) && nameOf(pid) === wanted);
}

/**
 * Lists the processes that have run for some time; those of which that is not known are left out.
 * @param seconds how long
 * @returns their pids
 */
export function pidsOlderThan(seconds: number, proc: string): readonly string[] {
  const buffer = Buffer.alloc(MAX_STAT_BYTES);
  const uptime = Number.parseFloat(readStart(`${proc}/uptime`, buffer) ?? '');
  const startOf = (pid: string): number => {
    const stat = readStart(`${proc}/${pid}/stat`, buffer) ?? '';
    // proc(5): the 22nd field; the name before them, which may contain spaces, is the second.
    return Number(stat.slice(stat.lastIndexOf(')')).split(' ')[20]) / TICKS_PER_SECOND;
  };
  return readdirSync(proc).filter((pid) => isPid(pid) && uptime - startOf(pid) > seconds);
}

/** The beginning of a file of /proc; `undefined` if the process has exited in the meantime. */
function readStart(path: string, buffer: Buffer): string | undefined {
  try {
    const fd = openSync(path, 'r');
    try {
      return buffer.toString('latin1', 0, readSync(fd, buffer, 0, buffer.length, null));
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined;
  }
}

function isPid(name: string): boolean {
  return /^[0-9]+$/.test(name);
}
