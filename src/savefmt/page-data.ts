/** PAGE_DATA records: their pfn words, page types and lengths. */
import { PAGE_SIZE } from '../core/brand.ts';
import { concat, fixed } from './fixed.ts';
import { MAX_RECORD_LENGTH, recordHeader } from './record.ts';

/**
 * The fixed part of PAGE_DATA (libxc-migration-stream.pandoc): count, reserved. It is followed by `count`
 * words of pfn and type, then by the pages of those words whose type has data.
 */
export const pageDataHeader = fixed('little', { count: 'u32', reserved: 'u32' });

export const PAGE_DATA_TYPE = 1;

/** Bytes of a record before its first pfn word: record header, count, reserved. */
export const PAGE_DATA_FIXED_LENGTH = recordHeader.size + pageDataHeader.size;

/** Returns the offset of the first page of a record at `offset` with `entries` entries. */
export function dataOffset(offset: number, entries: number): number {
  return offset + PAGE_DATA_FIXED_LENGTH + 8 * entries;
}

/** XEN_DOMCTL_PFINFO_* (xen/include/public/domctl.h) shifted down to 4 bits, as in bits 60-63 of a word. */
export const PAGE_TYPE = {
  notab: 0x0,
  l1tab: 0x1,
  l2tab: 0x2,
  l3tab: 0x3,
  l4tab: 0x4,
  l1tabPinned: 0x9,
  l2tabPinned: 0xa,
  l3tabPinned: 0xb,
  l4tabPinned: 0xc,
  broken: 0xd,
  xalloc: 0xe,
  xtab: 0xf,
} as const;

const typeNames = [
  'NOTAB',
  'L1TAB',
  'L2TAB',
  'L3TAB',
  'L4TAB',
  'reserved 5',
  'reserved 6',
  'reserved 7',
  'reserved 8',
  'L1TAB_PIN',
  'L2TAB_PIN',
  'L3TAB_PIN',
  'L4TAB_PIN',
  'BROKEN',
  'XALLOC',
  'XTAB',
] as const;

/** Returns the specification's name of a 4-bit page type. */
export function pageTypeName(type: number): string {
  return typeNames[type] ?? `type ${type}`;
}

/** Returns whether the specification knows the 4-bit page type. */
export function isPageType(type: number): boolean {
  return (type >= 0 && type <= 4) || (type >= 9 && type <= 15);
}

/** Returns whether the record has the content of pages of this type. */
export function hasPageData(type: number): boolean {
  return type < PAGE_TYPE.broken;
}

/** The largest pfn that fits its 52 bits. */
export const MAX_PFN = 2 ** 52 - 1;

/** The pfn words of one record, kept as bytes. */
export class PfnWords {
  readonly count: number;
  /** The words: 8 bytes each, little-endian. */
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  /**
   * Takes the words as bytes.
   * @throws {RangeError} If the length is not a multiple of 8.
   */
  constructor(bytes: Uint8Array) {
    if (bytes.length % 8 !== 0) throw new RangeError(`${bytes.length} bytes are not pfn words`);
    this.bytes = bytes;
    this.count = bytes.length / 8;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /**
   * Makes the words for some pfns.
   * @param types 4-bit types. Default: all NOTAB.
   * @throws {RangeError} If a pfn or type does not fit, or the lengths differ.
   */
  static of(pfns: ArrayLike<number>, types?: ArrayLike<number>): PfnWords {
    if (types !== undefined && types.length !== pfns.length) {
      throw new RangeError(`${types.length} types for ${pfns.length} pfns`);
    }
    const words = new PfnWords(new Uint8Array(pfns.length * 8));
    for (let i = 0; i < pfns.length; i++) words.set(i, pfns[i] ?? -1, types?.[i]);
    return words;
  }

  pfn(index: number): number {
    return (this.#high(index) & 0xfffff) * 2 ** 32 + this.#view.getUint32(index * 8, true);
  }

  /** Returns the 4-bit type. */
  type(index: number): number {
    return this.#high(index) >>> 28;
  }

  /** Returns bits 52-59, which should be zero. */
  reserved(index: number): number {
    return (this.#high(index) >>> 20) & 0xff;
  }

  /**
   * Sets a word.
   * @throws {RangeError} If the pfn or type does not fit.
   */
  set(index: number, pfn: number, type: number = PAGE_TYPE.notab): void {
    if (!Number.isInteger(pfn) || pfn < 0 || pfn > MAX_PFN) throw new RangeError(`not a pfn: ${pfn}`);
    if (!isPageType(type)) throw new RangeError(`not a page type: ${type}`);
    this.#view.setUint32(index * 8, pfn % 2 ** 32, true);
    this.#view.setUint32(index * 8 + 4, Math.floor(pfn / 2 ** 32) + type * 2 ** 28, true);
  }

  /**
   * Sets the words of pages with data, from `index` on.
   * @param types 4-bit types. Default: all NOTAB.
   * @throws {RangeError} If a type has no data or does not fit
   */
  setData(index: number, pfns: Uint32Array, types?: Uint8Array): void {
    const { buffer, byteOffset } = this.bytes;
    const words = new Uint32Array(buffer, byteOffset + 8 * index, 2 * pfns.length);
    for (let i = 0; i < pfns.length; i++) {
      const type = types === undefined ? PAGE_TYPE.notab : (types[i] ?? PAGE_TYPE.xtab);
      if (!isPageType(type) || !hasPageData(type)) {
        throw new RangeError(`not the type of a page with data: ${type}`);
      }
      words[2 * i] = pfns[i] ?? 0;
      words[2 * i + 1] = type * 2 ** 28;
    }
  }

  /** Counts the words whose page is in the record. */
  dataPages(): number {
    let pages = 0;
    for (let i = 0; i < this.count; i++) if (hasPageData(this.type(i))) pages++;
    return pages;
  }

  #high(index: number): number {
    return this.#view.getUint32(index * 8 + 4, true);
  }
}

/** Returns the length of the record's body in bytes. */
export function pageDataLength(entries: number, dataPages: number): number {
  return pageDataHeader.size + 8 * entries + PAGE_SIZE * dataPages;
}

/** Maximum number of entries with data in one record. */
export const MAX_PAGE_DATA_COUNT = Math.floor((MAX_RECORD_LENGTH - pageDataHeader.size) / (8 + PAGE_SIZE));

/** Encodes everything of a record before its first page; the pages follow without padding. */
export function encodePageDataHead(words: PfnWords, reserved = 0): Uint8Array {
  return concat(
    recordHeader.encode({ type: PAGE_DATA_TYPE, length: pageDataLength(words.count, words.dataPages()) }),
    pageDataHeader.encode({ count: words.count, reserved }),
    words.bytes,
  );
}

/**
 * Encodes a whole PAGE_DATA record, for pages that changed after their slots were laid out. Later entries
 * win.
 * @param pages the pages with data, one after the other
 * @throws {RangeError} If `pages` does not have the length that the types call for, or the record would be
 * longer than libxc accepts.
 */
export function encodeAmendment(
  pfns: ArrayLike<number>,
  types: ArrayLike<number>,
  pages: Uint8Array,
): Uint8Array {
  const words = PfnWords.of(pfns, types);
  const expected = words.dataPages() * PAGE_SIZE;
  if (pages.length !== expected) {
    throw new RangeError(`${pages.length} bytes of pages where the types call for ${expected}`);
  }
  if (words.count === 0) throw new RangeError('a PAGE_DATA record without entries');
  if (pageDataLength(words.count, words.dataPages()) > MAX_RECORD_LENGTH) {
    throw new RangeError(`${words.count} entries are too many for one PAGE_DATA record`);
  }
  return concat(encodePageDataHead(words), pages);
}
