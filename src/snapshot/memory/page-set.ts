/** A set of pfns that knows the index of each. */
import { Bitmap } from '../../core/bitmap.ts';
import { lengthWithoutZeros } from '../../core/zeros.ts';

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
   * Makes a set from the bits of its pfns.
   * @returns undefined if there are pfns beyond the p2m
   */
  static of(bits: Uint8Array, p2mSize: number): PageSet | undefined {
    const set = new PageSet(p2mSize);
    const length = lengthWithoutZeros(bits);
    const last = length * 8 - 1 - (Math.clz32(bits[length - 1] ?? 0) - 24);
    if (length === 0) return set;
    if (last >= p2mSize) return undefined;
    set.#bits.bytes.set(bits.subarray(0, length));
    for (let block = 0; block < set.#before.length; block++) {
      set.#before[block] = set.count;
      set.count += set.#bits.count(block * BLOCK, Math.min((block + 1) * BLOCK, set.#bits.bytes.length * 8));
    }
    set.#counted = set.#before.length;
    set.#last = last;
    return set;
  }

  /** The bits of its pfns, up to the last. */
  get bits(): Uint8Array {
    const { bytes } = this.#bits;
    return bytes.subarray(0, lengthWithoutZeros(bytes));
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
