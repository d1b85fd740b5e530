/** Builds the array of struct iovec for one gathering write. */

/** Words of 32 bits in a struct iovec (sys/uio.h): address and length, 64 bits each. */
const WORDS = 4;
const HALF = 2 ** 32;

/** Pieces of memory that one write takes together, as an array of struct iovec. */
export class Gather {
  /** The pieces not yet written, for `pwritev`. */
  entries: Uint32Array;
  /** Number of bytes not yet written. */
  bytes = 0;
  #end = 0;
  /** Memory that must not be freed before this object. */
  readonly #kept: Uint8Array[] = [];

  /**
   * Allocates the array.
   * @param most maximum number of pieces; IOV_MAX is 1024 (linux/uio.h: UIO_MAXIOV)
   */
  constructor(most: number) {
    this.entries = new Uint32Array(WORDS * most);
  }

  get count(): number {
    return this.#end / WORDS;
  }

  /**
   * Adds memory at an address of this process, and joins it to the previous piece if it follows that in
   * memory.
   */
  add(address: number, length: number): void {
    this.bytes += length;
    const last = this.#end - WORDS;
    if (last >= 0 && this.#get(last) + this.#get(last + 2) === address) {
      this.#set(last + 2, this.#get(last + 2) + length);
      return;
    }
    this.#set(this.#end, address);
    this.#set(this.#end + 2, length);
    this.#end += WORDS;
  }

  /** Adds an array of JavaScript, and keeps it. */
  addBytes(bytes: Uint8Array, address: number): void {
    this.#kept.push(bytes);
    this.add(address, bytes.length);
  }

  /** Removes what has been written. */
  advance(bytes: number): void {
    this.bytes -= bytes;
    let rest = bytes;
    let whole = 0;
    while (whole < this.#end && rest >= this.#get(whole + 2)) {
      rest -= this.#get(whole + 2);
      whole += WORDS;
    }
    this.entries = this.entries.subarray(whole);
    this.#end -= whole;
    if (rest === 0) return;
    this.#set(0, this.#get(0) + rest);
    this.#set(2, this.#get(2) - rest);
  }

  #get(at: number): number {
    return (this.entries[at] ?? 0) + (this.entries[at + 1] ?? 0) * HALF;
  }

  #set(at: number, value: number): void {
    this.entries[at] = value % HALF;
    this.entries[at + 1] = Math.floor(value / HALF);
  }
}
