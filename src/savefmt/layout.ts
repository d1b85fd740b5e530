/** Computes where each page of the guest is in the memory file. */
import { PAGE_SIZE } from '../core/brand.ts';
import {
  MAX_PAGE_DATA_COUNT,
  PAGE_DATA_FIXED_LENGTH,
  PAGE_DATA_TYPE,
  PAGE_TYPE,
  PfnWords,
  pageDataHeader,
  pageDataLength,
} from './page-data.ts';
import { recordHeader } from './record.ts';

/**
 * A head has 16 + 8 * n bytes. With n = 512 * k - 2 that is a multiple of 4096, so a record that starts at a
 * 4096 boundary has its pages at such boundaries, and ends at one.
 */
const ENTRIES_PER_PAGE = PAGE_SIZE / 8;
const FIXED_ENTRIES = PAGE_DATA_FIXED_LENGTH / 8;

/** Pages in a full record: nearly 4 MiB of page data after 8 KiB of head. */
export const DEFAULT_PAGES_PER_RECORD = 2 * ENTRIES_PER_PAGE - FIXED_ENTRIES;

/** Where one record of the layout is. Offsets count bytes of the file. */
export interface SlotRecord {
  readonly offset: number;
  /** Index of the record's first page. */
  readonly firstIndex: number;
  /** Number of pages in the record. */
  readonly count: number;
  /** Entries before those of the pages, for alignment only. */
  readonly fillers: number;
  readonly dataOffset: number;
}

/**
 * Assigns each page of a guest a place in the file, at a 4096 boundary. The places are in PAGE_DATA records,
 * back to back; they are computed, never stored. A page is identified by its index in the list of pfns with
 * data.
 *
 * All records but the last have `perRecord` pages. The last has fewer, so its head is padded with entries of
 * type XTAB (no data) for its own first pfn. They precede the real entry, and a later entry wins. Both Xen's
 * restore and its verifier accept that, for PV and HVM: XTAB neither populates nor maps a page.
 */
export class SlotLayout {
  /** Offset of the first record. */
  readonly start: number;
  /** Number of pages. */
  readonly count: number;
  readonly perRecord: number;
  readonly recordCount: number;
  /** Offset of the first byte after the last record. */
  readonly end: number;
  readonly #recordLength: number;

  private constructor(start: number, count: number, perRecord: number) {
    this.start = start;
    this.count = count;
    this.perRecord = perRecord;
    this.recordCount = Math.ceil(count / perRecord);
    this.#recordLength = recordHeader.size + pageDataLength(perRecord, perRecord);
    const last = this.recordCount === 0 ? undefined : this.record(this.recordCount - 1);
    this.end = last === undefined ? start : last.dataOffset + last.count * PAGE_SIZE;
  }

  /**
   * Creates the layout.
   * @throws {RangeError} If a number is not as described.
   */
  static create({
    firstRecordOffset,
    count,
    perRecord = DEFAULT_PAGES_PER_RECORD,
  }: {
    /** A multiple of 4096, such as the length of `encodePrefix`'s result. */
    readonly firstRecordOffset: number;
    /** Number of pages with data. */
    readonly count: number;
    /** 512 * k - 2, at most 32254 (a record of 126 MiB). Default: 1022. */
    readonly perRecord?: number | undefined;
  }): SlotLayout {
    if (
      !Number.isSafeInteger(firstRecordOffset) ||
      firstRecordOffset < 0 ||
      firstRecordOffset % PAGE_SIZE !== 0
    ) {
      throw new RangeError(`the first record cannot be at ${firstRecordOffset}: not a multiple of 4096`);
    }
    if (!Number.isSafeInteger(count) || count < 0 || count > 2 ** 40) throw new RangeError(`${count} pages`);
    if (
      !(
        perRecord > 0 &&
        perRecord <= MAX_PAGE_DATA_COUNT &&
        (perRecord + FIXED_ENTRIES) % ENTRIES_PER_PAGE === 0
      )
    ) {
      throw new RangeError(
        `${perRecord} pages in a record: must be 512 * k - 2 and at most ${MAX_PAGE_DATA_COUNT}`,
      );
    }
    return new SlotLayout(firstRecordOffset, count, perRecord);
  }

  /**
   * Returns where a record is.
   * @throws {RangeError} If there is no such record.
   */
  record(index: number): SlotRecord {
    if (!Number.isInteger(index) || index < 0 || index >= this.recordCount) {
      throw new RangeError(`record ${index} of ${this.recordCount}`);
    }
    const offset = this.start + index * this.#recordLength;
    const firstIndex = index * this.perRecord;
    const count = Math.min(this.perRecord, this.count - firstIndex);
    const fillers = -(count + FIXED_ENTRIES) & (ENTRIES_PER_PAGE - 1);
    const dataOffset = offset + PAGE_DATA_FIXED_LENGTH + 8 * (fillers + count);
    return { offset, firstIndex, count, fillers, dataOffset };
  }

  /**
   * Returns the file offset of a page's data, a multiple of 4096.
   * @throws {RangeError} If there is no such page.
   */
  slotOffset(index: number): number {
    const { firstIndex, dataOffset } = this.record(this.#recordOf(index));
    return dataOffset + (index - firstIndex) * PAGE_SIZE;
  }

  /**
   * Returns the file offset of a page's pfn word, for a page whose type changes later (see `PfnWords`).
   * @throws {RangeError} If there is no such page.
   */
  wordOffset(index: number): number {
    const { offset, firstIndex, fillers } = this.record(this.#recordOf(index));
    return offset + PAGE_DATA_FIXED_LENGTH + 8 * (fillers + index - firstIndex);
  }

  /**
   * Encodes everything of a record that precedes its pages; it belongs at `record(index).offset`.
   * @param pfns pfns of the record's pages
   * @param types their 4-bit types, all with data. Default: NOTAB.
   * @throws {RangeError} If the lists do not fit the record, or a type has no data.
   */
  encodeHead(index: number, pfns: Uint32Array, types?: Uint8Array): Uint8Array {
    const { count, fillers, dataOffset, offset } = this.record(index);
    if (pfns.length !== count || (types !== undefined && types.length !== count)) {
      throw new RangeError(`${pfns.length} pfns and ${types?.length ?? 0} types for ${count} pages`);
    }
    const head = new Uint8Array(dataOffset - offset);
    head.set(recordHeader.encode({ type: PAGE_DATA_TYPE, length: pageDataLength(fillers + count, count) }));
    head.set(pageDataHeader.encode({ count: fillers + count, reserved: 0 }), recordHeader.size);
    const words = new PfnWords(head.subarray(PAGE_DATA_FIXED_LENGTH));
    for (let i = 0; i < fillers; i++) words.set(i, pfns[0] ?? -1, PAGE_TYPE.xtab);
    words.setData(fillers, pfns, types);
    return head;
  }

  #recordOf(index: number): number {
    if (!Number.isInteger(index) || index < 0 || index >= this.count) {
      throw new RangeError(`page ${index} of ${this.count}`);
    }
    return Math.floor(index / this.perRecord);
  }
}
