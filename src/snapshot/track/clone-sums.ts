/** Checksums of a clone of a memory file that was written to in places. */
import { Bitmap } from '../../core/bitmap.ts';
import { PAGE_SIZE } from '../../core/brand.ts';
import { OutputError, throwIfAborted } from '../../core/errors.ts';
import { type Extents, HoleFinder } from '../../core/extents.ts';
import { type Checksums, type FileRange, readWhole, stretches } from '../../memfile/checksums.ts';
import { makeSummer, SUM_DIGITS, type Summer } from '../../memfile/summer.ts';

/** Bytes read at a time: a multiple of a page, and few enough for the second-level cache. */
const PIECE = 512 * 1024;

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
  /** Called now and then with the number of bytes done. */
  readonly progress?: (done: number) => void;
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
    const { checksums, end } = this.#parent;
    const { algorithm, head, stretch } = checksums;
    const digits = SUM_DIGITS[algorithm];
    const summers = { parent: await makeSummer(algorithm), clone: await makeSummer(algorithm) };
    const extents = await options.extents?.(this.#parent.fd);
    const holes = extents === undefined ? undefined : new HoleFinder(extents);
    const sums: string[] = [];
    for (const [at, range] of [...stretches(size, head, stretch)].entries()) {
      throwIfAborted(options.signal);
      const known = range.from < end ? checksums.sums.slice(at * digits, (at + 1) * digits) : undefined;
      if (known !== undefined && range.to <= end && !this.#touched.has(at)) sums.push(known);
      else sums.push(await this.#sum(fd, range, known, summers, holes));
      options.progress?.(range.to);
    }
    return { algorithm, head, stretch, sums: sums.join('') };
  }

  /** Sums up a stretch, of which the cloned file has a part, unless that has another sum than it should. */
  async #sum(
    fd: number,
    { from, to }: FileRange,
    expected: string | undefined,
    summers: { readonly parent: Summer; readonly clone: Summer },
    holes: HoleFinder | undefined,
  ): Promise<string> {
    const { head, stretch } = this.#parent.checksums;
    const parentTo = Math.min(this.#parent.bytes, from < head ? head : from + stretch);
    const buffer = new Uint8Array(PIECE);
    for (let at = from; at < Math.max(to, expected === undefined ? 0 : parentTo); at += PIECE) {
      const ours = Math.max(0, Math.min(PIECE, to - at));
      const theirs = expected === undefined ? 0 : Math.max(0, Math.min(PIECE, parentTo - at));
      if (
        theirs > 0 &&
        ours > 0 &&
        holes?.isHole(at, theirs) === true &&
        !this.#isWritten({ from: at, to: at + ours })
      ) {
        summers.parent.addZeros(theirs);
        summers.clone.addZeros(ours);
        continue;
      }
      if (theirs > 0) {
        await readWhole(this.#parent.fd, buffer, { from: at, to: at + theirs });
        summers.parent.add(buffer.subarray(0, theirs));
      }
      for (const run of this.#writtenRuns({ from: at, to: at + ours })) {
        await readWhole(fd, buffer.subarray(run.from - at), run);
      }
      summers.clone.add(buffer.subarray(0, ours));
    }
    const found = summers.parent.take();
    const sum = summers.clone.take();
    if (expected === undefined || found === expected) return sum;
    throw new OutputError(
      'PARENT_DAMAGED',
      `${this.#parent.path} is damaged between bytes ${from} and ${parentTo}`,
      {
        offset: from,
        hint: 'run the same command again: it copies all memory; xlsnap verify says more about the damaged file',
      },
    );
  }

  /** Whether the clone has other bytes than the cloned file in some block of a range. */
  #isWritten({ from, to }: FileRange): boolean {
    for (let block = Math.floor(from / PAGE_SIZE); block * PAGE_SIZE < to; block++)
      if (this.#has(block)) return true;
    return false;
  }

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
