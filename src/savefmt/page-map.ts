/** Collects which pages a stream has, from its PAGE_DATA records. */
import { hex, RecordError } from './errors.ts';
import { hasPageData, PAGE_TYPE, type PfnWords, pageTypeName } from './page-data.ts';

/** Bits of a page's state. 0 means that there is no such page. */
export const PAGE_STATE = {
  /** The 4-bit type. */
  type: 0x0f,
  present: 0x10,
  /** The page has data, all zeros, and is a hole in the file. */
  hole: 0x20,
  /** The page has data, all zeros, stored in the file. Known only if the page was read. */
  storedZero: 0x40,
} as const;

/** Number of pfns in one piece of the map: 128 MiB of the guest's memory. */
const CHUNK = 2 ** 15;
/**
 * Maximum number of pieces. A piece takes a byte for each pfn: half a GiB for 2 TiB of memory, or for pfns
 * that a damaged file scatters.
 */
const MAX_CHUNKS = 2 ** 14;

const TYPE = PAGE_STATE.type;
const PRESENT = PAGE_STATE.present;
const HOLE = PAGE_STATE.hole;
const STORED_ZERO = PAGE_STATE.storedZero;

/** Numbers of pages by kind. */
export interface PageCounts {
  /** Pages that the guest has. */
  readonly pages: number;
  /** Pages among them that are all zeros and holes in the file. */
  readonly holes: number;
  /** Pages among them that are all zeros and take space; 0 unless pages were read. */
  readonly storedZeros: number;
  /** Number of pages of each type that occurs, by the specification's name of the type. */
  readonly types: Readonly<Record<string, number>>;
}

/** A range of the guest's memory; both pfns are included. */
export interface PageRange extends PageCounts {
  readonly firstPfn: number;
  readonly lastPfn: number;
}

/**
 * Records which pages a stream gives the guest, their types, and which are zeros. The last entry for a pfn
 * counts. Takes a byte for each pfn, where there are pages.
 */
export class PageMap {
  /** Number of entries that replaced an earlier one with data. */
  repeated = 0;
  readonly #chunks = new Map<number, Uint8Array>();

  /**
   * Adds the entries of a PAGE_DATA record.
   * @param content for each of its pages with data, in order: 0, or PAGE_STATE.hole or .storedZero
   * @param offset of the record, for the error
   * @throws {RecordError} PFN_SPREAD if the pfns are too far apart for a map.
   */
  add(words: PfnWords, content: Uint8Array, offset: number): void {
    let page = 0;
    let index = -1;
    let chunk: Uint8Array | undefined;
    for (let i = 0; i < words.count; i++) {
      const pfn = words.pfn(i);
      const type = words.type(i);
      const wanted = Math.floor(pfn / CHUNK);
      if (wanted !== index) {
        index = wanted;
        chunk = this.#chunks.get(index);
      }
      // XTAB means that there is no such page.
      if (type === PAGE_TYPE.xtab) {
        if (chunk !== undefined) chunk[pfn % CHUNK] = 0;
        continue;
      }
      chunk ??= this.#grow(index, pfn, offset);
      const at = pfn % CHUNK;
      const before = chunk[at] ?? 0;
      if ((before & PRESENT) !== 0 && hasPageData(before & TYPE)) this.repeated++;
      chunk[at] = PRESENT | type | (hasPageData(type) ? (content[page++] ?? 0) : 0);
    }
  }

  /**
   * Copies the states (`PAGE_STATE`) of the pfns from `first`, a multiple of 32768, into `states`, as many as
   * fit.
   */
  copyStates(first: number, states: Uint8Array): void {
    states.fill(0);
    for (let at = 0; at < states.length; at += CHUNK) {
      const chunk = this.#chunks.get((first + at) / CHUNK);
      if (chunk !== undefined) states.set(chunk.subarray(0, states.length - at), at);
    }
  }

  /** Counts all pages. */
  counts(): PageCounts {
    const tally = new Tally();
    for (const chunk of this.#chunks.values()) for (const state of chunk) tally.add(state);
    return tally.counts();
  }

  /**
   * Yields the first pfn of each aligned piece of `size` pfns that may have pages, ascending; `size` is a
   * power of two, at least 32768.
   */
  *pieces(size: number): Generator<number> {
    const starts = new Set(
      [...this.#chunks.keys()].map((index) => Math.floor((index * CHUNK) / size) * size),
    );
    yield* [...starts].sort((a, b) => a - b);
  }

  /**
   * Returns ranges of pages, ascending, at most `most` of them. If there would be more, those closest to each
   * other are joined.
   * @returns `gap`: fewer missing pfns than this do not separate two ranges; 1 if no range has any
   */
  ranges(most: number): { readonly gap: number; readonly ranges: readonly PageRange[] } {
    for (let gap = 1; ; gap *= 2) {
      const ranges = this.#ranges(gap, Math.max(1, most));
      if (ranges !== undefined) return { gap, ranges };
    }
  }

  #ranges(gap: number, most: number): readonly PageRange[] | undefined {
    const ranges: PageRange[] = [];
    let tally = new Tally();
    let firstPfn = -1;
    let lastPfn = -1;
    const end = (): void => {
      if (lastPfn >= 0) ranges.push({ firstPfn, lastPfn, ...tally.counts() });
    };
    for (const index of [...this.#chunks.keys()].sort((a, b) => a - b)) {
      const chunk = this.#chunks.get(index) ?? [];
      for (let i = 0; i < chunk.length; i++) {
        const state = chunk[i] ?? 0;
        if ((state & PRESENT) === 0) continue;
        const pfn = index * CHUNK + i;
        if (lastPfn < 0 || pfn - lastPfn > gap) {
          end();
          if (ranges.length >= most) return undefined;
          tally = new Tally();
          firstPfn = pfn;
        }
        lastPfn = pfn;
        tally.add(state);
      }
    }
    end();
    return ranges.length > most ? undefined : ranges;
  }

  #grow(index: number, pfn: number, offset: number): Uint8Array {
    if (this.#chunks.size >= MAX_CHUNKS) {
      throw new RecordError('PFN_SPREAD', `pfn ${hex(pfn)} and others are too far apart for a map`, {
        record: 'PAGE_DATA',
        offset,
      });
    }
    const chunk = new Uint8Array(CHUNK);
    this.#chunks.set(index, chunk);
    return chunk;
  }
}

class Tally {
  #pages = 0;
  #holes = 0;
  #storedZeros = 0;
  readonly #types = new Float64Array(16);

  add(state: number): void {
    if ((state & PRESENT) === 0) return;
    this.#pages++;
    if ((state & HOLE) !== 0) this.#holes++;
    if ((state & STORED_ZERO) !== 0) this.#storedZeros++;
    const type = state & TYPE;
    this.#types[type] = (this.#types[type] ?? 0) + 1;
  }

  counts(): PageCounts {
    const types: Record<string, number> = {};
    for (const [type, count] of this.#types.entries()) if (count > 0) types[pageTypeName(type)] = count;
    return { pages: this.#pages, holes: this.#holes, storedZeros: this.#storedZeros, types };
  }
}
