import { hex, RecordError } from './errors.ts';
import { hasPageData, PAGE_TYPE, type PfnWords, pageTypeName } from './page-data.ts';

/** Bits of a page's state; 0 says that there is no such page. */
export const PAGE_STATE = {
  /** The 4-bit type. */
  type: 0x0f,
  present: 0x10,
  /** It has data, all zeros, and is a hole of the file. */
  hole: 0x20,
  /** It has data, all zeros, which take room. Only known when the page was read. */
  storedZero: 0x40,
} as const;

/** pfns in one piece of the map: 128 MiB of the guest's memory. */
const CHUNK = 2 ** 15;
/** A piece takes an byte for each pfn: half a GiB for 2 TiB of memory, or for pfns that a damaged file strews about. */
const MAX_CHUNKS = 2 ** 14;

const TYPE = PAGE_STATE.type;
const PRESENT = PAGE_STATE.present;
const HOLE = PAGE_STATE.hole;
const STORED_ZERO = PAGE_STATE.storedZero;

/** Numbers of pages of one kind. */
export interface PageCounts {
  /** Pages that the guest has. */
  readonly pages: number;
  /** Of them those of zeros that are holes of the file. */
  readonly holes: number;
  /** Of them those of zeros that take space; 0 unless pages were read. */
  readonly storedZeros: number;
  /** Pages of each type, by the specification's name of it; those that there are. */
  readonly types: Readonly<Record<string, number>>;
}

/** A part of the guest's memory, with both its pfns. */
export interface PageRange extends PageCounts {
  readonly firstPfn: number;
  readonly lastPfn: number;
}

/**
 * Which pages a stream gives the guest, their types, and which are zeros: the last entry for a pfn counts. An byte for
 * each pfn, where there are pages.
 */
export class PageMap {
  /** Entries that took the place of an earlier one with data. */
  repeated = 0;
  readonly #chunks = new Map<number, Uint8Array>();

  /**
   * Takes the entries of a PAGE_DATA record.
   * @param content for each of its pages with data, in their order: 0, or PAGE_STATE.hole or .storedZero
   * @param offset of the record, for the error
   * @throws RecordError PFN_SPREAD when the pfns lie too far apart for a map of them
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
      // XTAB says that there is no such page.
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

  /** Puts the states (`PAGE_STATE`) of the pfns from `first`, a multiple of 32768, into `states`; as many as it has room for. */
  copyStates(first: number, states: Uint8Array): void {
    states.fill(0);
    for (let at = 0; at < states.length; at += CHUNK) {
      const chunk = this.#chunks.get((first + at) / CHUNK);
      if (chunk !== undefined) states.set(chunk.subarray(0, states.length - at), at);
    }
  }

  /** Numbers of all pages. */
  counts(): PageCounts {
    const tally = new Tally();
    for (const chunk of this.#chunks.values()) for (const state of chunk) tally.add(state);
    return tally.counts();
  }

  /** The first pfn of each aligned piece of `size` pfns, a power of two of at least 32768, that may have pages; ascending. */
  *pieces(size: number): Generator<number> {
    const starts = new Set(
      [...this.#chunks.keys()].map((index) => Math.floor((index * CHUNK) / size) * size),
    );
    yield* [...starts].sort((a, b) => a - b);
  }

  /**
   * Ranges of pages, ascending, at most `most` of them: where there would be more, those closest to each other are one.
   * @returns `gap`: fewer pfns without a page than this do not part two ranges; 1 when each range is without any
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
      throw new RecordError('PFN_SPREAD', `pfn ${hex(pfn)} and others are too far apart for a map of them`, {
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
