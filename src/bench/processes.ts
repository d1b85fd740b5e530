/** Processor time and memory of processes, from /proc. */
import { readdirSync, readFileSync } from 'node:fs';

/** Ticks per second of the times in /proc: USER_HZ, the same on all Linux but Alpha (proc_pid_stat(5)). */
const TICKS_PER_SECOND = 100;

/** Processor time in seconds. */
export interface CpuTimes {
  readonly user: number;
  readonly system: number;
}

/**
 * Reads the processor time of all children of this process that have ended and been waited for, including those that
 * they have waited for themselves (cutime and cstime, proc_pid_stat(5)), in steps of 10 ms.
 */
export function endedChildrenTimes(): CpuTimes {
  // The second field is a name in parentheses, and may hold spaces and more parentheses.
  const text = readFileSync('/proc/self/stat', 'latin1');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const seconds = (field: number): number => Number(fields[field - 3]) / TICKS_PER_SECOND;
  return { user: seconds(16), system: seconds(17) };
}

/** Lists a process and its descendants; those that have ended are left out. */
export function processTree(pid: number): readonly number[] {
  const below = readdir(`/proc/${pid}/task`).flatMap((thread) =>
    read(`/proc/${pid}/task/${thread}/children`).split(' ').filter(Boolean).map(Number),
  );
  return [pid, ...below.flatMap(processTree)];
}

/** Reads the largest resident set that a process has had, in bytes; 0 if it has ended. */
export function peakResident(pid: number): number {
  const [, kib] = /^VmHWM:\s+(\d+) kB$/m.exec(read(`/proc/${pid}/status`)) ?? [];
  return Number(kib ?? 0) * 1024;
}

/** A process may end at any time. */
function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

function readdir(path: string): readonly string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
