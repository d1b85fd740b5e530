/** Reads Xen's dirty bitmap, and notices if another program has emptied it. */
import { countOnes } from '../core/bitmap.ts';

/**
 * What Xen returns and clears in one call: a bitmap of gfns, and how many it has counted since the last call.
 */
export interface CleanedLog {
  readonly bitmap: Uint8Array;
  readonly count: number;
}

/**
 * Takes Xen's dirty bitmap, and checks whether it has everything that was written. Turning the log off and on
 * again empties the bitmap, but does not reset Xen's count. A long call is preempted, though: a page that is
 * written behind the point that Xen has reached is counted now, and is in the bitmap of the next call
 * (xen/arch/x86/mm/paging.c: paging_log_dirty_op). So a count that is too high is checked again.
 * @param clean makes one XEN_DOMCTL_SHADOW_OP_CLEAN
 */
export async function takeBitmap(
  clean: () => Promise<CleanedLog>,
): Promise<{ readonly bitmap: Uint8Array; readonly whole: boolean }> {
  const first = await clean();
  const missing = first.count - countOnes(first.bitmap);
  if (missing <= 0) return { bitmap: first.bitmap, whole: true };
  const second = await clean();
  const late = countOnes(second.bitmap) - second.count;
  const bitmap = first.bitmap.map((byte, at) => byte | (second.bitmap[at] ?? 0));
  return { bitmap, whole: late >= missing };
}
