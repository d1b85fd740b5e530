import { PAGE_SIZE } from '../core/brand.ts';
import {
  PAGE_DATA_FIXED_LENGTH,
  PAGE_DATA_TYPE,
  PAGE_TYPE,
  pageDataHeader,
  pageDataLength,
} from './page-data.ts';
import { recordHeader } from './record.ts';

/** Pages of a superpage of 2 MiB, the smallest. */
export const SUPERPAGE_PAGES = 512;

/** Superpages in a full record, which is then 1 MiB long. */
const REGIONS_PER_RECORD = 255;
/** Entries that a head of 4096 bytes leaves beside its 16 fixed bytes. */
const SPARE_ENTRIES = SUPERPAGE_PAGES - PAGE_DATA_FIXED_LENGTH / 8;
/** Upper half of a pfn word. */
const XALLOC_HIGH = PAGE_TYPE.xalloc * 2 ** 28;
const XTAB_HIGH = PAGE_TYPE.xtab * 2 ** 28;

/**
 * Room in a file for PAGE_DATA records that allocate pages and give them no content yet: entries of type XALLOC. They come before the
 * records with data.
 *
 * Restore gives a guest a 2 MiB page where 512 aligned pfns that it does not have yet ascend in one record
 * (tools/libs/guest/xg_sr_restore.c: populate_pfns, since Xen 4.21; older ones give it 512 small pages). The records of
 * `SlotLayout` break such runs, since their pages of zeros follow those with data.
 *
 * All records but the last have room for 255 aligned regions of 512 pfns, and 510 pfns of other regions, so that each is a multiple of
 * 4096 bytes. What is not used is filled with entries of type XTAB for a pfn that has its real entry later: they allocate nothing.
 */
export class AllocationLayout {
  /** Offset of the first record. */
  readonly start: number;
  /** How many regions have room. */
  readonly regions: number;
  readonly recordCount: number;
  /** Offset of the first byte behind the last record; a multiple of 4096 away from `start`. */
  readonly end: number;

  /** @throws {RangeError} If `regions` is not an integer of at least 0. */
  constructor(start: number, regions: number) {
    if (!Number.isSafeInteger(regions) || regions < 0) throw new RangeError(`room for ${regions} superpages`);
    this.start = start;
    this.regions = regions;
    this.recordCount = Math.ceil(regions / REGIONS_PER_RECORD);
    this.end = start + (regions + this.recordCount) * PAGE_SIZE;
  }

  /**
   * Returns how many regions have room in the records between two offsets.
   * @throws {RangeError} If no number of regions fills it
   */
  static regionsBetween(start: number, end: number): number {
    const pages = (end - start) / PAGE_SIZE;
    const regions = pages - Math.ceil(pages / (REGIONS_PER_RECORD + 1));
    if (new AllocationLayout(start, regions).end !== end)
      throw new RangeError(`${end - start} bytes of allocation`);
    return regions;
  }

  /**
   * Makes the records.
   * @param pfns which pages are allocated
   * @returns each record with its offset; the bytes hold until the next is asked for
   */
  *records(pfns: AllocatedPages): Generator<{ readonly bytes: Uint8Array; readonly offset: number }> {
    const buffer = new Uint8Array(Math.min(this.regions, REGIONS_PER_RECORD) * PAGE_SIZE + PAGE_SIZE);
    const whole = pfns.wholeRegions();
    const others = pfns.others();
    let offset = this.start;
    for (let left = this.regions; left > 0; left -= REGIONS_PER_RECORD) {
      const regions = Math.min(left, REGIONS_PER_RECORD);
      const bytes = buffer.subarray(0, (regions + 1) * PAGE_SIZE);
      const count = regions * SUPERPAGE_PAGES + SPARE_ENTRIES;
      bytes.set(recordHeader.encode({ type: PAGE_DATA_TYPE, length: pageDataLength(count, 0) }));
      bytes.set(pageDataHeader.encode({ count, reserved: 0 }), recordHeader.size);
      // Little-endian, as the machines that Xen runs on.
      const words = new Uint32Array(bytes.buffer, PAGE_DATA_FIXED_LENGTH, 2 * count);
      let at = 0;
      const put = (pfn: number, high: number): void => {
        words[at++] = pfn;
        words[at++] = high;
      };
      for (let i = 0; i < regions; i++) {
        const region = whole.next();
        if (region.done === true) break;
        const first = region.value * SUPERPAGE_PAGES;
        for (let pfn = first; pfn < first + SUPERPAGE_PAGES; pfn++) put(pfn, XALLOC_HIGH);
      }
      while (at < words.length) {
        const other = others.next();
        if (other.done === true) break;
        put(other.value, XALLOC_HIGH);
      }
      while (at < words.length) put(pfns.filler, XTAB_HIGH);
      yield { bytes, offset };
      offset += bytes.length;
    }
  }
}

/** Pages that are to be allocated; pfns below 2^32. */
export interface AllocatedPages {
  /** The numbers (pfn / 512) of the aligned regions that are whole, ascending. */
  wholeRegions(): Iterator<number>;
  /** The other pfns, ascending. */
  others(): Iterator<number>;
  /** A pfn that has an entry with data behind the records. */
  readonly filler: number;
}
