/** Which parts of a file hold data. Between them are holes, which read as zeros and take no room. */
export interface Extents {
  /**
   * The first part with data that ends behind `offset`, in bytes from the start of the file; `undefined` when there is
   * none. Parts may be wider than the data, never narrower.
   */
  from(offset: number): Extent | undefined;
}

export interface Extent {
  readonly start: number;
  /** Offset of the first byte behind it. */
  readonly end: number;
}

/** Says of pieces of a file whether they lie in a hole; quick when they are asked for in ascending order. */
export class HoleFinder {
  readonly #extents: Extents;
  /** There is no data from here to the next extent. */
  #from = 0;
  #next: Extent | undefined;

  constructor(extents: Extents) {
    this.#extents = extents;
    this.#next = extents.from(0);
  }

  isHole(offset: number, length: number): boolean {
    if (offset < this.#from || (this.#next !== undefined && offset >= this.#next.end)) {
      this.#next = this.#extents.from(offset);
      this.#from = offset;
    }
    return this.#next === undefined || offset + length <= this.#next.start;
  }
}
