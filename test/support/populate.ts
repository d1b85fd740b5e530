import type { PageEntry } from './page-records.ts';

const SUPERPAGE = 512;
const BROKEN = 13;
const XTAB = 15;

/** What a restore of Xen 4.21 or later does with a file's records: 2 MiB pages by their first pfn, and all other pages. */
export interface Populated {
  readonly superpages: readonly number[];
  readonly small: readonly number[];
}

/**
 * Goes through PAGE_DATA records as tools/libs/guest/xg_sr_restore.c does (populate_pfns, Xen 4.21), written from its description:
 * a page is populated by its first entry that is neither XTAB nor BROKEN; the last of 512 that ascend in one record, up to an aligned
 * end, makes one superpage of them.
 */
export function populate(records: readonly (readonly PageEntry[])[]): Populated {
  const all = new Set<number>();
  const small = new Set<number>();
  const superpages: number[] = [];
  for (const record of records) {
    let run: number[] = [];
    for (const { pfn, type } of record) {
      if (type === XTAB || type === BROKEN || all.has(pfn)) continue;
      all.add(pfn);
      small.add(pfn);
      if (run.at(-1) !== pfn - 1) run = [];
      run.push(pfn);
      if (run.length < SUPERPAGE || pfn % SUPERPAGE !== SUPERPAGE - 1) continue;
      const its = run.slice(-SUPERPAGE);
      for (const each of its) small.delete(each);
      superpages.push(its[0] ?? -1);
      run = [];
    }
  }
  return { superpages: superpages.sort((a, b) => a - b), small: [...small].sort((a, b) => a - b) };
}
