/** Checksums of a memory file, one for each stretch. */
import { read } from 'node:fs';
import { promisify } from 'node:util';
import { throwIfAborted } from '../core/errors.ts';
import type { Extents } from '../core/extents.ts';
import { type ChecksumAlgorithm, type MakeXxh3, makeSummer, SUM_DIGITS } from './summer.ts';

/** Offsets in bytes; `to` is after the last byte. */
export interface FileRange {
  readonly from: number;
  readonly to: number;
}

/**
 * Checksums of a file: of its first `head` bytes, then of each `stretch` bytes; the last stretch may be shorter. Every byte is
 * covered. Checksums reveal damage, not who caused it.
 */
export interface Checksums {
  /**
   * `xxh3`: XXH3 with 64 bits and seed 0 (xxHash, doc/xxhash_spec.md) of the stretch without the zeros at its end. `crc32`: CRC-32
   * (ISO 3309) of the whole stretch, as earlier versions wrote it.
   */
  readonly algorithm: ChecksumAlgorithm;
  /** Bytes before the first PAGE_DATA record, so that each full record is one stretch. */
  readonly head: number;
  readonly stretch: number;
  /** 16 hexadecimal digits for each, 8 for `crc32`, in the order of the file. */
  readonly sums: string;
}

/** Length of a stretch in bytes, which is that of a full PAGE_DATA record of 1022 pages. */
export const STRETCH = 4 * 1024 * 1024;

/** Bytes read at a time. So many fit the second-level cache; several are read at once. */
const PIECE = 512 * 1024;
const IN_FLIGHT = 4;
/** Holes shorter than this take longer to ask for than to read. */
const SMALL_HOLE = 64 * 1024;

/** How a file is divided, and how its stretches are summed up. */
export type ChecksumShape = Pick<Checksums, 'head' | 'stretch'> & Partial<Pick<Checksums, 'algorithm'>>;

const readFd = promisify(read);

export interface ChecksumOptions {
  readonly signal?: AbortSignal | undefined;
  /** Returns where the file has data, so that holes need not be read. */
  readonly extents?: ((fd: number) => Promise<Extents>) | undefined;
  /** Default: WebAssembly. */
  readonly xxh3?: MakeXxh3 | undefined;
  /** Returns the sum of a stretch that need not be read, since it is known what was written there. */
  readonly known?: ((stretch: FileRange) => string | undefined) | undefined;
  /** Called now and then with the number of bytes done. */
  readonly progress?: (done: number) => void;
}

/**
 * Reads an open file of `size` bytes and computes its checksums. Passes on the error of read(2), as Node
 * makes it.
 * @throws {InterruptedError} If the signal aborted.
 * @throws {RangeError} If the file is shorter.
 */
export async function checksumFile(
  fd: number,
  size: number,
  { algorithm = 'xxh3', head, stretch }: ChecksumShape,
  { signal, extents, xxh3, known, progress }: ChecksumOptions = {},
): Promise<Checksums> {
  const buffers = Array.from({ length: IN_FLIGHT }, () => new Uint8Array(Math.min(PIECE, size)));
  /** Pieces that are being read. */
  const begun: { piece: Piece; bytes: Promise<Uint8Array> }[] = [];
  const sums: string[] = [];
  using summer = await makeSummer(algorithm, xxh3);
  const finish = async (): Promise<void> => {
    const next = begun.shift();
    if (next === undefined) return;
    const { piece } = next;
    if (piece.sum === undefined) {
      if (piece.hole) summer.addZeros(piece.to - piece.from);
      else summer.add(await next.bytes);
    }
    if (!piece.last) return;
    sums.push(piece.sum ?? summer.take());
    progress?.(piece.to);
  };
  try {
    let turn = 0;
    for (const piece of pieces(size, { head, stretch }, await extents?.(fd), known)) {
      throwIfAborted(signal);
      if (begun.length === IN_FLIGHT) await finish();
      const buffer = buffers[turn++ % IN_FLIGHT] ?? new Uint8Array(PIECE);
      const bytes =
        piece.hole || piece.sum !== undefined ? Promise.resolve(NOTHING) : readWhole(fd, buffer, piece);
      // If an earlier piece fails, nobody asks for the later ones.
      bytes.catch(() => {});
      begun.push({ piece, bytes });
    }
    while (begun.length > 0) await finish();
  } finally {
    // Nothing may read from the descriptor once the caller closes it.
    await Promise.allSettled(begun.map(({ bytes }) => bytes));
  }
  return { algorithm, head, stretch, sums: sums.join('') };
}

/**
 * Returns the ranges of a file of `size` bytes whose checksums differ. Both sets must have that size and
 * shape.
 */
export function differing(size: number, expected: Checksums, found: Checksums): FileRange[] {
  const { algorithm, head, stretch } = expected;
  const digits = SUM_DIGITS[algorithm];
  return [...stretches(size, head, stretch)].filter((_, i) => {
    const at = i * digits;
    return expected.sums.slice(at, at + digits) !== found.sums.slice(at, at + digits);
  });
}

/** Returns the length of `sums` for a file of `size` bytes. */
export function sumsLength(size: number, { algorithm = 'xxh3', head, stretch }: ChecksumShape): number {
  const first = Math.min(head, size);
  return SUM_DIGITS[algorithm] * ((first > 0 ? 1 : 0) + Math.ceil((size - first) / stretch));
}

/** The stretches of a file of `size` bytes. */
export function* stretches(size: number, head: number, stretch: number): Generator<FileRange> {
  for (let from = 0; from < size; ) {
    const to = Math.min(size, from < head ? head : from + stretch);
    yield { from, to };
    from = to;
  }
}

/** A range that is read and summed up at once. */
interface Piece extends FileRange {
  readonly hole: boolean;
  /** If it is known, and the piece is a whole stretch. */
  readonly sum: string | undefined;
  /** Whether a stretch ends with it. */
  readonly last: boolean;
}

const NOTHING = new Uint8Array(0);

function* pieces(
  size: number,
  { head, stretch }: { readonly head: number; readonly stretch: number },
  extents: Extents | undefined,
  known: ChecksumOptions['known'],
): Generator<Piece> {
  let data = extents === undefined ? { start: 0, end: size } : { start: 0, end: 0 };
  for (const { from, to } of stretches(size, head, stretch)) {
    const sum = known?.({ from, to });
    if (sum !== undefined) {
      yield { from, to, hole: false, sum, last: true };
      continue;
    }
    for (let at = from; at < to; ) {
      if (at >= data.end) data = extents?.from(at) ?? { start: size, end: size };
      const hole = data.start - at >= SMALL_HOLE || data.start >= to;
      const end = Math.min(to, hole ? data.start : Math.min(at + PIECE, data.end));
      yield { from: at, to: end, hole, sum: undefined, last: end === to };
      at = end;
    }
  }
}

/** Reads a range of a file. @throws {RangeError} If the file ends before */
export async function readWhole(
  fd: number,
  buffer: Uint8Array,
  { from, to }: FileRange,
): Promise<Uint8Array> {
  const length = to - from;
  for (let done = 0; done < length; ) {
    const { bytesRead } = await readFd(fd, buffer, done, length - done, from + done);
    if (bytesRead === 0) throw new RangeError(`the file ends at ${from + done}`);
    done += bytesRead;
  }
  return buffer.subarray(0, length);
}
