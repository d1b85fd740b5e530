/** Which pages a memory file allocates before it gives them content, so that a restore can give the guest superpages. */
import type { Bitmap } from '../../core/bitmap.ts';
import { type AllocatedPages, AllocationLayout, SUPERPAGE_PAGES } from '../../savefmt/index.ts';
import type { Guest } from '../ports.ts';

/** Regions for pages that a running guest gets while it is copied: a sixteenth of what it has, and a few. */
const GROWTH = 1 / 16;
const SOME_REGIONS = 4;

/**
 * Makes room for the allocation of a guest's pages.
 * @param start offset in the file
 * @param pages that the guest has, about
 * @param live whether it may get more
 * @returns undefined for a PV guest, which has no superpages, and where there is nothing to allocate
 */
export function allocationRoom(
  { streamType, p2mSize }: Pick<Guest, 'streamType' | 'p2mSize'>,
  start: number,
  pages: number,
  live: boolean,
): AllocationLayout | undefined {
  if (streamType !== 'hvm') return undefined;
  const most = Math.floor(p2mSize / SUPERPAGE_PAGES);
  const whole = Math.floor(pages / SUPERPAGE_PAGES);
  const regions = Math.min(most, live ? Math.ceil(whole * (1 + GROWTH)) + SOME_REGIONS : whole);
  return regions === 0 ? undefined : new AllocationLayout(start, regions);
}

/** Sees a bitmap of pfns as pages to be allocated. */
export function allocatedPages(pfns: Bitmap): AllocatedPages {
  const regions = Math.ceil(pfns.size / SUPERPAGE_PAGES);
  const isWhole = (region: number): boolean => {
    const first = region * SUPERPAGE_PAGES;
    const end = first + SUPERPAGE_PAGES;
    return end <= pfns.size && pfns.has(first) && pfns.count(first, end) === SUPERPAGE_PAGES;
  };
  const [filler = 0] = pfns.indices();
  return {
    filler,
    *wholeRegions() {
      for (let region = 0; region < regions; region++) if (isWhole(region)) yield region;
    },
    *others() {
      for (let region = 0; region < regions; region++) {
        if (isWhole(region)) continue;
        const first = region * SUPERPAGE_PAGES;
        yield* pfns.indices(first, first + SUPERPAGE_PAGES);
      }
    },
  };
}
