/** A bitmap of fixed size; bit n is bit n % 8 of octet n / 8, as Xen's log-dirty bitmaps are. */
export class Bitmap {
  /** Number of bits. */
  readonly size: number;
  /** The octets, a multiple of 8 of them, so that they can be seen as 64-bit words. */
  readonly bytes: Uint8Array;

  /** @throws RangeError when `size` is not an integer of 0 … 2^40. */
  constructor(size: number) {
    if (!Number.isInteger(size) || size < 0 || size > 2 ** 40) {
      throw new RangeError(`bitmap size ${size}`);
    }
    this.size = size;
    this.bytes = new Uint8Array(Math.ceil(size / 64) * 8);
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

  /** Sets every bit that is set in `other`. */
  or(other: Bitmap): void {
    if (other.size !== this.size) throw new RangeError('bitmaps of different size');
    for (let i = 0; i < this.bytes.length; i++) {
      this.bytes[i] = (this.bytes[i] ?? 0) | (other.bytes[i] ?? 0);
    }
  }

  /** Number of bits set. */
  count(): number {
    let total = 0;
    for (let octet of this.bytes) {
      while (octet !== 0) {
        octet &= octet - 1;
        total++;
      }
    }
    return total;
  }

  /** The indices of the set bits, ascending. */
  *indices(): Generator<number> {
    for (let at = 0; at < this.bytes.length; at++) {
      const octet = this.bytes[at] ?? 0;
      if (octet === 0) continue;
      for (let bit = 0; bit < 8; bit++) {
        if ((octet & (1 << bit)) !== 0) yield at * 8 + bit;
      }
    }
  }

  private check(index: number): void {
    if (!Number.isInteger(index) || index < 0 || index >= this.size) {
      throw new RangeError(`bit ${index} of a bitmap of ${this.size}`);
    }
  }
}
