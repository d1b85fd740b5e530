/** Checksums of a clone of a memory file that was written to in places. */
import { Bitmap } from '../../core/bitmap.ts';
import { PAGE_SIZE } from '../../core/brand.ts';
import { OutputError, throwIfAborted } from '../../core/errors.ts';
import { type Extents, HoleFinder } from '../../core/extents.ts';
import { type Checksums, type FileRange, readWhole, stretches } from '../../memfile/checksums.ts';
import { type MakeXxh3, makeSummer, SUM_DIGITS, type Summer } from '../../memfile/summer.ts';

/** Bytes read at a time: a multiple of a page, and few enough for the second-level cache. */
const PIECE = 512 * 1024;
/** Pieces that are read while another one is summed up, and that one. */
const IN_FLIGHT = 3;

/** The file that was cloned. */
export interface ClonedFile {
  readonly fd: number;
  readonly path: string;
  readonly bytes: number;
  readonly checksums: Checksums;
  /** From here on nothing of it is in the clone. */
  readonly end: number;
}

export interface SumOptions {
  readonly signal?: AbortSignal | undefined;
  readonly extents?: ((fd: number) => Promise<Extents>) | undefined;
  /** Default: WebAssembly. */
  readonly xxh3?: MakeXxh3 | undefined;
  /** Called now and then with the number of bytes done. */
  readonly progress?: (done: number) => void;
}

/** A part of a stretch, or a stretch whose sum is known. */
interface Piece extends FileRange {
  /** Bytes that the clone has there. */
  readonly ours: number;
  /** Bytes that the cloned file has there, if its checksum covers them. */
  readonly theirs: number;
  /** Whether the cloned file has only zeros there. */
  readonly hole: boolean;
  /** Where the clone may have other bytes. */
  readonly written: readonly FileRange[];
  readonly known: string | undefined;
  /** The stretch that ends with it: where it begins, where it ends in the cloned file, and its checksum there. */
  readonly stretch:
    | { readonly from: number; readonly parentTo: number; readonly expected: string | undefined }
    | undefined;
}

/**
 * Knows which blocks of a clone were written to. The checksums of stretches without any are those of the cloned file, so that damage
 * there is still found. Of the others the cloned file's part is checked first: damage must not get a good checksum.
 */
export class CloneSums {
  readonly #parent: ClonedFile;
  readonly #written: Bitmap;
  /** Numbers of the stretches that have such blocks. */
  readonly #touched = new Set<number>();

  constructor(parent: ClonedFile) {
    this.#parent = parent;
    this.#written = new Bitmap(Math.ceil(parent.bytes / PAGE_SIZE));
  }

  /** Notes that something was written to the clone. */
  note({ from, to }: FileRange): void {
    const last = Math.min(Math.ceil(to / PAGE_SIZE), this.#written.size);
    for (let block = Math.floor(from / PAGE_SIZE); block < last; block++) this.#written.set(block);
    const { head, stretch } = this.#parent.checksums;
    const numberOf = (offset: number): number =>
      offset < head ? 0 : 1 + Math.floor((offset - head) / stretch);
    for (let at = numberOf(from); at <= numberOf(to - 1); at++) this.#touched.add(at);
  }

  /**
   * Computes the checksums of the clone.
   * @param size its length in bytes
   * @throws {OutputError} If the cloned file is damaged (`PARENT_DAMAGED`). Passes on the error of read(2)
   */
  async compute(fd: number, size: number, options: SumOptions = {}): Promise<Checksums> {
    const { algorithm, head, stretch } = this.#parent.checksums;
    using parent = await makeSummer(algorithm, options.xxh3);
    using clone = await makeSummer(algorithm, options.xxh3);
    const extents = await options.extents?.(this.#parent.fd);
    const holes = extents === undefined ? undefined : new HoleFinder(extents);
    const buffers = Array.from({ length: IN_FLIGHT }, () => new Uint8Array(2 * PIECE));
    const begun: { readonly piece: Piece; readonly buffer: Uint8Array; readonly read: Promise<unknown> }[] =
      [];
    const sums: string[] = [];
    const finish = async (): Promise<void> => {
      const next = begun.shift();
      if (next === undefined) return;
      await next.read;
      const sum = this.#add(next.piece, next.buffer, { parent, clone });
      if (sum === undefined) return;
      sums.push(sum);
      options.progress?.(next.piece.to);
    };
    try {
      let turn = 0;
      for (const piece of this.#pieces(size, holes)) {
        throwIfAborted(options.signal);
        if (begun.length === IN_FLIGHT) await finish();
        const buffer = buffers[turn++ % IN_FLIGHT] ?? new Uint8Array(2 * PIECE);
        const read = this.#read(fd, piece, buffer);
        // If an earlier piece fails, nobody asks for the later ones.
        read.catch(() => {});
        begun.push({ piece, buffer, read });
      }
      while (begun.length > 0) await finish();
    } finally {
      // Nothing may read from the descriptors once the caller closes them.
      await Promise.allSettled(begun.map(({ read }) => read));
    }
    return { algorithm, head, stretch, sums: sums.join('') };
  }

  /** Stretches whose sums are known are whole pieces. */
  *#pieces(size: number, holes: HoleFinder | undefined): Generator<Piece> {
    const { checksums, bytes, end } = this.#parent;
    const { algorithm, head, stretch, sums } = checksums;
    const digits = SUM_DIGITS[algorithm];
    for (const [number, { from, to }] of [...stretches(size, head, stretch)].entries()) {
      const expected = from < end ? sums.slice(number * digits, (number + 1) * digits) : undefined;
      if (expected !== undefined && to <= end && !this.#touched.has(number)) {
        yield { from, to, ours: 0, theirs: 0, hole: false, written: [], known: expected, stretch: undefined };
        continue;
      }
      const parentTo = expected === undefined ? from : Math.min(bytes, from < head ? head : from + stretch);
      const last = Math.max(to, parentTo);
      for (let at = from; at < last; at += PIECE) {
        const ours = Math.max(0, Math.min(PIECE, to - at));
        const theirs = Math.max(0, Math.min(PIECE, parentTo - at));
        yield {
          from: at,
          to: Math.min(at + PIECE, last),
          ours,
          theirs,
          hole: theirs > 0 && holes?.isHole(at, theirs) === true,
          written: [...this.#writtenRuns({ from: at, to: at + ours })],
          known: undefined,
          stretch: at + PIECE < last ? undefined : { from, parentTo, expected },
        };
      }
    }
  }

  /** Reads what the cloned file has into the first half of the buffer, and what was written to the clone into the second. */
  async #read(fd: number, { from, theirs, hole, written }: Piece, buffer: Uint8Array): Promise<void> {
    const reads = written.map((run) => readWhole(fd, buffer.subarray(PIECE + run.from - from), run));
    if (theirs > 0 && !hole) reads.push(readWhole(this.#parent.fd, buffer, { from, to: from + theirs }));
    // All must end before the buffer is used again.
    const failed = (await Promise.allSettled(reads)).find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
  }

  /**
   * Sums up a piece that was read.
   * @returns the sum of its stretch in the clone, if that ends with it
   */
  #add(
    piece: Piece,
    buffer: Uint8Array,
    summers: Readonly<Record<'parent' | 'clone', Summer>>,
  ): string | undefined {
    const { from, ours, theirs, hole, written, known, stretch } = piece;
    if (known !== undefined) return known;
    const { parent, clone } = summers;
    if (hole) parent.addZeros(theirs);
    else parent.add(buffer.subarray(0, theirs));
    if (hole && written.length === 0) clone.addZeros(ours);
    else {
      if (hole) buffer.fill(0, 0, ours);
      for (const run of written) {
        buffer.copyWithin(run.from - from, PIECE + run.from - from, PIECE + run.to - from);
      }
      clone.add(buffer.subarray(0, ours));
    }
    if (stretch === undefined) return undefined;
    const found = parent.take();
    const sum = clone.take();
    if (stretch.expected === undefined || found === stretch.expected) return sum;
    throw new OutputError(
      'PARENT_DAMAGED',
      `${this.#parent.path} is damaged between bytes ${stretch.from} and ${stretch.parentTo}`,
      {
        offset: stretch.from,
        hint: 'run the same command again: it copies all memory; xlsnap verify says more about the damaged file',
      },
    );
  }

  /** The parts of a range in which the clone may have other bytes than the cloned file. */
  *#writtenRuns({ from, to }: FileRange): Generator<FileRange> {
    for (let at = from; at < to; ) {
      let next = at;
      while (next < to && this.#has(Math.floor(next / PAGE_SIZE))) next = nextBlock(next);
      if (next > at) yield { from: at, to: Math.min(next, to) };
      at = next > at ? next : nextBlock(at);
    }
  }

  #has(block: number): boolean {
    return block * PAGE_SIZE + PAGE_SIZE > this.#parent.end || this.#written.has(block);
  }
}

function nextBlock(offset: number): number {
  return (Math.floor(offset / PAGE_SIZE) + 1) * PAGE_SIZE;
}
