/** How much memory this process may use for pages that wait to be written. */
import { readFileSync } from 'node:fs';
import { cgroupRoom } from './cgroup-memory.ts';

/** What other programs and the kernel may need at any moment: an eighth of all memory, and no less than this. */
const RESERVE_BYTES = 256 * 1024 * 1024;
const RESERVE_SHARE = 8;
/** Used in any case. */
const MIN_BYTES = 16 * 1024 * 1024;

/**
 * Returns how many bytes of memory this process can fill without making the host, or a control group that it is in, short of it. File
 * pages that are still to be written to a disk do not count as free, since a slow disk frees them late.
 * @param meminfo text of /proc/meminfo (proc_meminfo(5))
 * @param limit what the control groups allow
 */
export function spareMemory(
  meminfo: string = readFileSync('/proc/meminfo', 'utf8'),
  limit: number = cgroupRoom(),
): number {
  const bytes = (key: string): number =>
    Number(new RegExp(`^${key}: +([0-9]+) kB$`, 'm').exec(meminfo)?.[1] ?? 0) * 1024;
  const reserve = Math.max(RESERVE_BYTES, bytes('MemTotal') / RESERVE_SHARE);
  const spare = bytes('MemAvailable') - bytes('Dirty') - bytes('Writeback') - reserve;
  return Math.max(MIN_BYTES, Math.min(Math.floor(spare), limit));
}
