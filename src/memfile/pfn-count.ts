/** Counts the pages of a memory file, in bounded memory. */
import { PAGE_TYPE, type PfnWords, SUPERPAGE_PAGES } from '../savefmt/index.ts';

/** Number of pfns in one piece: 4 KiB of bits. */
const CHUNK = 2 ** 15;
/**
 * Maximum number of pieces, a quarter of a GiB of bits: 8 TiB of a guest's memory, or pfns that a damaged
 * file scatters.
 */
const MAX_CHUNKS = 2 ** 16;

/** Counts the pages that a restore gives the guest: each pfn once, however often it is in the file. */
export class PfnCount {
  /**
   * Of them, how many superpages of 2 MiB a restore by Xen 4.21 or later can give an HVM or PVH guest: 512 aligned pfns that it
   * does not have yet ascend in one record (tools/libs/guest/xg_sr_restore.c: populate_pfns).
   */
  superpages = 0;
  #count = 0;
  readonly #chunks = new Map<number, Uint8Array>();
  #overflow = false;

  /** The number of pages; `undefined` if they were too scattered to be counted. */
  get pages(): number | undefined {
    return this.#overflow ? undefined : this.#count;
  }

  /** Adds the entries of a PAGE_DATA record. */
  add(words: PfnWords): void {
    let index = -1;
    let chunk: Uint8Array | undefined;
    let last = -2;
    let run = 0;
    for (let i = 0; i < words.count; i++) {
      const type = words.type(i);
      // tools/libs/guest/xg_sr_restore.c: populate_pfns skips these two.
      if (type === PAGE_TYPE.xtab || type === PAGE_TYPE.broken) continue;
      const pfn = words.pfn(i);
      const wanted = Math.floor(pfn / CHUNK);
      if (wanted !== index) {
        index = wanted;
        chunk = this.#chunkOf(index);
      }
      if (chunk === undefined) continue;
      const bit = pfn % CHUNK;
      const mask = 1 << (bit & 7);
      const before = chunk[bit >>> 3] ?? 0;
      if ((before & mask) !== 0) continue;
      chunk[bit >>> 3] = before | mask;
      this.#count++;
      run = pfn === last + 1 ? run + 1 : 1;
      last = pfn;
      if (run < SUPERPAGE_PAGES || (pfn + 1) % SUPERPAGE_PAGES !== 0) continue;
      this.superpages++;
      run = 0;
    }
  }

  #chunkOf(index: number): Uint8Array | undefined {
    const found = this.#chunks.get(index);
    if (found !== undefined) return found;
    if (this.#chunks.size >= MAX_CHUNKS) {
      this.#overflow = true;
      return undefined;
    }
    const made = new Uint8Array(CHUNK / 8);
    this.#chunks.set(index, made);
    return made;
  }
}
