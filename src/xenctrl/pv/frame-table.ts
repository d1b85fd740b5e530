/** Looks frame numbers up in mapped tables: a guest's p2m, or Xen's m2p. */

/**
 * The entry of a table where there is no frame. Frames from 2^32 on, above 16 TiB, count as none too, and so
 * do entries of a p2m that Linux marks as foreign or identity frames in their top bits.
 */
export const NO_FRAME = 0xffffffff;

/**
 * A table of frame numbers indexed by frame number: little-endian words in mapped memory, read without
 * copying. The guest may change its p2m at any time, so whoever checks a number must use that number and not
 * read it again.
 */
export class FrameTable {
  /** Number of entries. */
  readonly size: number;
  readonly #pieces: readonly Uint32Array[];
  readonly #shift: number;
  readonly #mask: number;
  readonly #wide: boolean;

  /**
   * Takes the mapped pieces.
   * @param pieces the table in pieces of `perPiece` entries; the last may have fewer
   * @param perPiece a power of two
   * @param width bytes of an entry
   * @throws {RangeError} If the pieces do not hold `size` entries.
   */
  constructor(pieces: readonly Uint32Array[], perPiece: number, size: number, width: 4 | 8) {
    this.#wide = width === 8;
    this.#shift = Math.log2(perPiece);
    this.#mask = perPiece - 1;
    this.#pieces = pieces;
    this.size = size;
    for (let first = 0, i = 0; first < size; first += perPiece, i++) {
      const words = (Math.min(perPiece, size - first) * width) / 4;
      if ((pieces[i]?.length ?? 0) < words) throw new RangeError(`piece ${i} of the table is too short`);
    }
  }

  /** Returns the frame at an index from 0 to 2^32 - 1; NO_FRAME if there is none, or beyond the end. */
  get(index: number): number {
    if (index >= this.size) return NO_FRAME;
    const piece = this.#pieces[index >>> this.#shift];
    if (piece === undefined) return NO_FRAME;
    const at = index & this.#mask;
    if (!this.#wide) return piece[at] ?? NO_FRAME;
    return piece[2 * at + 1] === 0 ? (piece[2 * at] ?? NO_FRAME) : NO_FRAME;
  }
}
