/** A bitmap of fixed size; bit n is bit n % 8 of byte n / 8, as Xen's log-dirty bitmaps are. */
export class Bitmap {
  /** Number of bits. */
  readonly size: number;
  /** The bytes, a multiple of 8 of them, so that they can be seen as 64-bit words. */
  readonly bytes: Uint8Array;
  /** The same, 32 bits at a time: bit n is bit n % 32 of word n / 32 on the little-endian machines that Xen runs on. */
  readonly #words: Uint32Array;

  /** @throws {RangeError} If `size` is not an integer from 0 to 2^40 */
  constructor(size: number) {
    if (!Number.isInteger(size) || size < 0 || size > 2 ** 40) {
      throw new RangeError(`bitmap size ${size}`);
    }
    this.size = size;
    this.bytes = new Uint8Array(Math.ceil(size / 64) * 8);
    this.#words = new Uint32Array(this.bytes.buffer);
  }

  has(index: number): boolean {
    return ((this.bytes[Math.floor(index / 8)] ?? 0) & (1 << (index % 8))) !== 0;
  }

  set(index: number): void {
    this.check(index);
    const at = Math.floor(index / 8);
    this.bytes[at] = (this.bytes[at] ?? 0) | (1 << (index % 8));
  }

  clear(index: number): void {
    this.check(index);
    const at = Math.floor(index / 8);
    this.bytes[at] = (this.bytes[at] ?? 0) & ~(1 << (index % 8));
  }

  clearAll(): void {
    this.bytes.fill(0);
  }

  /**
   * Sets every bit that is set in `other`: bytes of a bitmap of the same size.
   * @throws {RangeError} If they are fewer or more than `bytes`, or not aligned to 4
   */
  or(other: Uint8Array): void {
    if (other.length !== this.bytes.length) throw new RangeError('bitmaps of different size');
    const mine = this.#words;
    const theirs = new Uint32Array(other.buffer, other.byteOffset, mine.length);
    for (let i = 0; i < mine.length; i++) mine[i] = (mine[i] ?? 0) | (theirs[i] ?? 0);
  }

  /** Number of bits set, of all or of those in `from` … `to` - 1, which are multiples of 32. */
  count(from = 0, to = 32 * this.#words.length): number {
    let total = 0;
    for (let at = from / 32; at < to / 32; at++) total += ones(this.#words[at] ?? 0);
    return total;
  }

  /** Number of bits set below `index`, counted from `from` on, which is a multiple of 32. */
  countBelow(index: number, from = 0): number {
    const whole = index - (index % 32);
    return this.count(from, whole) + ones((this.#words[whole / 32] ?? 0) & (2 ** (index % 32) - 1));
  }

  /**
   * The indices of the set bits, ascending; of all or of those in `from` … `to` - 1, which are multiples of 32 and may lie beyond
   * the end. A bit may be cleared once its index has come.
   */
  *indices(from = 0, to = 32 * this.#words.length): Generator<number> {
    for (let at = from / 32; at < to / 32; at++) {
      let word = this.#words[at] ?? 0;
      while (word !== 0) {
        yield at * 32 + 31 - Math.clz32(word & -word);
        word &= word - 1;
      }
    }
  }

  private check(index: number): void {
    if (!Number.isInteger(index) || index < 0 || index >= this.size) {
      throw new RangeError(`bit ${index} of a bitmap of ${this.size}`);
    }
  }
}

/** Returns the number of bits set in a bitmap's bytes, a multiple of 8 of them. */
export function countOnes(bytes: Uint8Array): number {
  let total = 0;
  for (const word of new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)) total += ones(word);
  return total;
}

/** Returns the bytes of a bitmap whose first `size` bits are set. */
export function allOnes(size: number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(size / 64) * 8);
  const whole = Math.floor(size / 8);
  bytes.fill(0xff, 0, whole);
  if (size % 8 > 0) bytes[whole] = (1 << (size % 8)) - 1;
  return bytes;
}

/** Returns the number of bits set in 32. */
function ones(word: number): number {
  let n = word - ((word >>> 1) & 0x55555555);
  n = (n & 0x33333333) + ((n >>> 2) & 0x33333333);
  return Math.imul((n + (n >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
