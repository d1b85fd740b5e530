/** How much the kernel takes into memory before those who write to files have to wait for the disk. */
import { readFileSync } from 'node:fs';
import { PAGE_SIZE } from './brand.ts';

/**
 * Returns how many bytes can be written to files now before the kernel slows the writer down to the speed of the disk: that
 * begins half-way between its two limits for pages that are still to be written (mm/page-writeback.c: dirty_freerun_ceiling).
 * @param vmstat text of /proc/vmstat
 */
export function dirtyRoom(vmstat: string = readFileSync('/proc/vmstat', 'utf8')): number {
  const pages = (key: string): number => Number(new RegExp(`^${key} ([0-9]+)$`, 'm').exec(vmstat)?.[1] ?? 0);
  const ceiling = (pages('nr_dirty_background_threshold') + pages('nr_dirty_threshold')) / 2;
  return Math.max(0, Math.floor(ceiling - pages('nr_dirty') - pages('nr_writeback'))) * PAGE_SIZE;
}
