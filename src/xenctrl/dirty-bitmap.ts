import { countOnes } from '../core/bitmap.ts';

/** What Xen gives and forgets in one go: a bitmap of gfns, and how many it has counted since the last time. */
export interface CleanedLog {
  readonly bitmap: Uint8Array;
  readonly count: number;
}

/**
 * Xen's dirty bitmap, and whether it holds all that was written. Turning the log off and on again empties the bitmap,
 * but not Xen's count. A long call is preempted, though: then a page that is written behind the place that Xen has come
 * to is counted now, and is in the bitmap of the next call (xen/arch/x86/mm/paging.c: paging_log_dirty_op). So a count
 * that is too high is looked at again.
 * @param clean one XEN_DOMCTL_SHADOW_OP_CLEAN
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
