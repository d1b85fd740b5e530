/** A set of pfns that knows the index of each. */
import { Bitmap } from '../../core/bitmap.ts';

/** Bits between two counts; a multiple of 32. */
const BLOCK = 256;

/** Ascending pfns, each with its index among them, in a bit and a little more per pfn of the p2m. */
export class PageSet {
  readonly #bits: Bitmap;
  /** How many pfns there are before each block of bits. */
  readonly #before: Uint32Array;
  #counted = 0;
  #last = -1;
  count = 0;

  constructor(p2mSize: number) {
    this.#bits = new Bitmap(p2mSize);
    this.#before = new Uint32Array(Math.ceil(p2mSize / BLOCK));
  }

  /**
   * Adds a pfn.
   * @throws {RangeError} If it is not above all others
   */
  add(pfn: number): void {
    if (pfn <= this.#last) throw new RangeError(`pfn ${pfn} after ${this.#last}`);
    this.#bits.set(pfn);
    const block = Math.floor(pfn / BLOCK);
    while (this.#counted <= block) this.#before[this.#counted++] = this.count;
    this.#last = pfn;
    this.count++;
  }

  /** Sets the bits of all its pfns in `pfns`, a bitmap of the same p2m. */
  addTo(pfns: Bitmap): void {
    pfns.or(this.#bits.bytes);
  }

  /** Index of the pfn, or -1. */
  indexOf(pfn: number): number {
    if (!this.#bits.has(pfn)) return -1;
    const block = Math.floor(pfn / BLOCK);
    return (this.#before[block] ?? 0) + this.#bits.countBelow(pfn, block * BLOCK);
  }
}
