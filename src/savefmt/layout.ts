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
 * A head of 16 + 8 * n bytes is a multiple of 4096 for n = 512 * k - 2; then records and pages that start at
 * a 4096 boundary end at one.
 */
const ENTRIES_PER_PAGE = PAGE_SIZE / 8;
const FIXED_ENTRIES = PAGE_DATA_FIXED_LENGTH / 8;

/** Pages in each full record: nearly 4 MiB of page data behind 8 KiB of head. */
export const DEFAULT_PAGES_PER_RECORD = 2 * ENTRIES_PER_PAGE - FIXED_ENTRIES;

/** Where one record of the layout stands; offsets are bytes of the file. */
export interface SlotRecord {
  readonly offset: number;
  /** Index of its first page. */
  readonly firstIndex: number;
  /** Pages in it. */
  readonly count: number;
  /** Entries before those of the pages, there for alignment alone. */
  readonly fillers: number;
  readonly dataOffset: number;
}

/**
 * Places in a file for the pages of a guest, each of them once and at a 4096 boundary: PAGE_DATA records, back
 * to back, computed and never stored. Pages are named by their index in the list of pfns with data.
 *
 * All records but the last have `perRecord` pages. The last one has fewer, so its head is filled up with
 * entries of type XTAB (no data) for its own first pfn; they stand before the real entry, and a later entry
 * wins. Both Xen's restore and its verifier take that, for PV and for HVM: XTAB neither populates nor maps.
 */
export class SlotLayout {
  /** Offset of the first record. */
  readonly start: number;
  /** Number of pages. */
  readonly count: number;
  readonly perRecord: number;
  readonly recordCount: number;
  /** Offset of the first byte behind the last record. */
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
   * `firstRecordOffset` is a multiple of 4096; `encodePrefix` gives such a length. `count` is of pages with data.
   * `perRecord` is 512 * k - 2, at most 32254 (a record of 126 MiB).
   * @throws RangeError for other numbers.
   */
  static create({
    firstRecordOffset,
    count,
    perRecord = DEFAULT_PAGES_PER_RECORD,
  }: {
    readonly firstRecordOffset: number;
    readonly count: number;
    readonly perRecord?: number | undefined;
  }): SlotLayout {
    if (
      !Number.isSafeInteger(firstRecordOffset) ||
      firstRecordOffset < 0 ||
      firstRecordOffset % PAGE_SIZE !== 0
    ) {
      throw new RangeError(`the first record cannot stand at ${firstRecordOffset}: not a multiple of 4096`);
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

  /** @throws RangeError when there is no such record. */
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
   * File offset of a page's data: a multiple of 4096.
   * @throws RangeError when there is no such page.
   */
  slotOffset(index: number): number {
    const { firstIndex, dataOffset } = this.record(this.#recordOf(index));
    return dataOffset + (index - firstIndex) * PAGE_SIZE;
  }

  /**
   * File offset of a page's pfn word, for a page that changes its type on the way (see `PfnWords`).
   * @throws RangeError when there is no such page.
   */
  wordOffset(index: number): number {
    const { offset, firstIndex, fillers } = this.record(this.#recordOf(index));
    return offset + PAGE_DATA_FIXED_LENGTH + 8 * (fillers + index - firstIndex);
  }

  /**
   * What goes to `record(index).offset`: everything of the record before its pages.
   * @param pfns of the record's own pages.
   * @param types their 4-bit types, all with data; NOTAB when absent.
   * @throws RangeError when the lists do not fit the record or a type has no data.
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
    for (let i = 0; i < count; i++) {
      words.set(fillers + i, pfns[i] ?? -1, types?.[i] ?? PAGE_TYPE.notab);
    }
    if (words.dataPages() !== count) throw new RangeError(`record ${index} has pages without data`);
    return head;
  }

  #recordOf(index: number): number {
    if (!Number.isInteger(index) || index < 0 || index >= this.count) {
      throw new RangeError(`page ${index} of ${this.count}`);
    }
    return Math.floor(index / this.perRecord);
  }
}
