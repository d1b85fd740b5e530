/**
 * No frame: what tables say where nothing is. Frames from 2^32 on, which are 16 TiB up, are none for us either; neither are
 * entries of a p2m that Linux marks as foreign or identity frames in their top bits.
 */
export const NO_FRAME = 0xffffffff;

/**
 * Frame numbers by frame number, a p2m or Xen's m2p: little-endian words over mapped memory, seen without copying.
 * The guest may change its p2m at any time: whoever checks a number uses that number, and does not ask twice.
 */
export class FrameTable {
  /** Number of entries. */
  readonly size: number;
  readonly #pieces: readonly Uint32Array[];
  readonly #shift: number;
  readonly #mask: number;
  readonly #wide: boolean;

  /**
   * @param pieces the table, cut into pieces of `perPiece` entries; the last may have fewer
   * @param perPiece a power of two
   * @param width bytes of an entry
   * @throws RangeError when the pieces do not hold `size` entries
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

  /** The frame at an index of 0 … 2^32 - 1; NO_FRAME where there is none, and beyond the end. */
  get(index: number): number {
    if (index >= this.size) return NO_FRAME;
    const piece = this.#pieces[index >>> this.#shift];
    if (piece === undefined) return NO_FRAME;
    const at = index & this.#mask;
    if (!this.#wide) return piece[at] ?? NO_FRAME;
    return piece[2 * at + 1] === 0 ? (piece[2 * at] ?? NO_FRAME) : NO_FRAME;
  }
}
