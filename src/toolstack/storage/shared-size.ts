/** How much of a memory file is shared with others, where the file system has reflinks. */
import { type FileHandle, open, statfs } from 'node:fs/promises';
import { sharedBytes } from '../../xenctrl/shared-extents.ts';

/** Magic numbers (statfs(2)) of XFS and btrfs. On others nothing is shared, and the C library need not be loaded. */
const REFLINKS: readonly number[] = [0x5846_5342, 0x9123_683e];

/** How long one list may spend on extents, in milliseconds: a file that was cloned often can have a million. */
const BUDGET_MS = 1000;

/** Makes `ImageHost.sharedBytes`. All calls together take about a second at most; what comes later gets no answer. */
export function sharedSizes(budgetMs = BUDGET_MS): (path: string) => Promise<number | undefined> {
  let left = budgetMs;
  return async (path) => {
    if (left <= 0) return undefined;
    let file: FileHandle | undefined;
    const start = performance.now();
    try {
      if (!REFLINKS.includes((await statfs(path)).type)) return undefined;
      file = await open(path);
      return await sharedBytes(file.fd, { deadline: start + left });
    } catch {
      // No permission, or no C library: the list goes without.
      return undefined;
    } finally {
      left -= performance.now() - start;
      await file?.close();
    }
  };
}
