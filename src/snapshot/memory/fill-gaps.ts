/** Puts pages that are copied again in the order of the file, and fills small gaps between them: one longer write takes less time. */
import { PAGE_SIZE } from '../../core/brand.ts';

/** Clean pages that are copied too, at most, as a part of the dirty ones. What is written is shared with no other file any more. */
const EXTRA = 0.15;
/** Longest gap that is filled: with a page at both ends, 64 KiB. */
const LONGEST_GAP = 14;
/** So many pfns between two pages are looked at, at most: those of a gap need not be neighbours in the guest. */
const NEAR = 64;

/** Between two pages that follow each other in the file: index of the first one in the file's order, and the pages that fill it. */
interface Gap {
  readonly after: number;
  readonly fillers: readonly number[];
}

/**
 * Returns dirty pages in the order of the file, with clean ones in the smallest gaps between them. Pages without a place are first.
 * @param pfns ascending
 * @param offsetOf where a page is in the file, in bytes; negative if it has no place
 */
export function fillGaps(pfns: Uint32Array, offsetOf: (pfn: number) => number): Uint32Array {
  const offsets = Float64Array.from(pfns, offsetOf);
  const order = Uint32Array.from(pfns.keys());
  order.sort((a, b) => (offsets[a] ?? 0) - (offsets[b] ?? 0) || a - b);
  const gaps: Gap[][] = Array.from({ length: LONGEST_GAP + 1 }, () => []);
  for (let at = 1; at < order.length; at++) {
    const before = order[at - 1] ?? 0;
    const after = order[at] ?? 0;
    const from = offsets[before] ?? -1;
    const to = offsets[after] ?? -1;
    const missing = (to - from) / PAGE_SIZE - 1;
    if (from < 0 || missing < 1 || missing > LONGEST_GAP) continue;
    const fillers = pagesBetween(pfns[before] ?? 0, pfns[after] ?? 0, { from, to, offsetOf });
    // Where a record ends, there is the head of the next one.
    if (fillers.length === missing) gaps[missing]?.push({ after: at - 1, fillers });
  }
  const filled = new Map<number, readonly number[]>();
  let left = Math.floor(pfns.length * EXTRA);
  for (const { after, fillers } of gaps.flat()) {
    if (fillers.length > left) break;
    left -= fillers.length;
    filled.set(after, fillers);
  }
  const all: number[] = [];
  for (const [at, index] of order.entries()) all.push(pfns[index] ?? 0, ...(filled.get(at) ?? []));
  return Uint32Array.from(all);
}

/** The pages between two others, both in the guest and in the file. */
function pagesBetween(
  first: number,
  last: number,
  {
    from,
    to,
    offsetOf,
  }: { readonly from: number; readonly to: number; readonly offsetOf: (pfn: number) => number },
): number[] {
  const pages: number[] = [];
  if (last - first > NEAR) return pages;
  for (let pfn = first + 1; pfn < last; pfn++) {
    const offset = offsetOf(pfn);
    if (offset > from && offset < to) pages.push(pfn);
  }
  return pages;
}
