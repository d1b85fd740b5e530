/** Maps and reads the memory of guests, by libxenforeignmemory. */
import { write } from 'node:fs';
import { promisify } from 'node:util';
import { type Domid, PAGE_SIZE } from '../core/brand.ts';
import { errnoCode, OutputError, throwIfAborted } from '../core/errors.ts';
import { PAGE_KIND } from '../core/page-kind.ts';
import { lengthWithoutZeros } from '../core/zeros.ts';
import type { FOREIGNMEMORY, LIBC } from './declarations.ts';
import { XenCallError } from './errors.ts';
import type { loadKoffi, NativeFunction } from './native.ts';
import { toWords } from './words.ts';

const writeFd: WriteFd = promisify(write);

/** Writes a part of `buffer` at an offset of a file, maybe less than asked for. */
export type WriteFd = (
  fd: number,
  buffer: Uint8Array,
  offset: number,
  length: number,
  position: number,
) => Promise<{ readonly bytesWritten: number }>;

export interface ForeignMemoryOptions {
  /** XXH3_64bits of libxxhash, if that is installed. */
  readonly xxh3?: NativeFunction | undefined;
  /** Default: pwrite(2) in a thread of Node's pool. */
  readonly write?: WriteFd;
}

/** So many pages and more are looked at as a whole: fewer are zeros together too rarely. */
const MIN_STRETCH = 64;
/** So many buffers are kept to be used again. */
const BUFFERS = 16;
/** PROT_READ (sys/mman.h). */
const PROT_READ = 1;
/** Makes the head of a stretch of the file, at least 64 bytes, once the kinds of its pages are known. */
export type HeadMaker = (kinds: Uint8Array) => Uint8Array;

/** Changes pages that must not go into a file unchanged. */
export interface PageRewriter {
  /** Indices of these pages. */
  readonly pages: readonly number[];
  /**
   * Changes a copy of the page, 1024 words.
   * @returns false if the page cannot be read now; then it counts as unmapped
   */
  rewrite(words: Uint32Array, index: number): boolean;
}

/** How pages are packed. */
export interface PackOptions {
  /** For pages that must not go into the file unchanged. */
  readonly rewriter?: PageRewriter | undefined;
  /** Whether to sum up what is written. */
  readonly sum?: boolean | undefined;
  /** The same file, opened with O_DIRECT. It is used if position and length are multiples of 4096. */
  readonly directFd?: number | undefined;
  /** What has not begun to be written when it is aborted no longer is. */
  readonly signal?: AbortSignal | undefined;
}

/** What was packed. */
export interface PackedPages {
  /** The kind of each page (`PAGE_KIND`). */
  readonly kinds: Uint8Array;
  /**
   * Resolves when it has been written: with the XXH3 (64 bits, 16 hexadecimal digits) of the head and the pages with data, without
   * the zeros at the end. Undefined if that was not wanted, or libxxhash is not installed. Rejects with an OutputError.
   */
  readonly written: Promise<string | undefined>;
}

/** See `PackOptions`. */
interface FileToWrite {
  readonly fd: number;
  readonly directFd: number | undefined;
  readonly signal: AbortSignal | undefined;
}

/** A stretch of the file, in memory. */
interface Packed {
  readonly buffer: Uint8Array;
  readonly kinds: Uint8Array;
  /** Bytes of the head and the pages with data. */
  readonly used: number;
}

/** Guest pages while they are mapped. Touching them afterwards kills the process. */
interface MappedPages {
  readonly address: number;
  /** Negated errnos. Touching a page whose error is not 0 kills the process too. */
  readonly errors: Int32Array;
}

type MemoryFunctions = Readonly<
  Record<
    | keyof (typeof FOREIGNMEMORY)['functions']
    | Extract<keyof (typeof LIBC)['functions'], 'memcmp' | 'memcpy'>,
    NativeFunction
  >
>;

/**
 * Foreign memory of guests. JavaScript never sees it: the C library compares, copies and writes it, and no
 * pointer leaves this class.
 */
export class ForeignMemory {
  readonly #koffi: Awaited<ReturnType<typeof loadKoffi>>;
  readonly #functions: MemoryFunctions;
  readonly #handle: number | bigint;
  readonly #xxh3: NativeFunction | undefined;
  readonly #writeFd: WriteFd;
  readonly #zeros = new Uint8Array(PAGE_SIZE);
  readonly #addressOfZeros: number;
  /** Buffers for packing that are not in use. */
  readonly #buffers: Uint8Array[] = [];
  #turn: Promise<void> = Promise.resolve();

  constructor(
    koffi: Awaited<ReturnType<typeof loadKoffi>>,
    functions: MemoryFunctions,
    handle: number | bigint,
    { xxh3, write = writeFd }: ForeignMemoryOptions = {},
  ) {
    this.#xxh3 = xxh3;
    this.#writeFd = write;
    this.#koffi = koffi;
    this.#functions = functions;
    this.#handle = handle;
    this.#addressOfZeros = this.#addressOf(this.#zeros);
  }

  /**
   * Does what `XenControl.packPages` says. The pages are copied first, since dom0 may write to them at any time, also to those of a
   * suspended guest: what is written and what is summed up must be the same.
   */
  async packPages(
    domid: Domid,
    gfns: Uint32Array,
    fd: number,
    position: number,
    makeHead: HeadMaker,
    { rewriter, sum = false, directFd, signal }: PackOptions = {},
  ): Promise<PackedPages> {
    const packed = this.#withMapped(domid, gfns, (pages) => this.#pack(pages, makeHead, rewriter));
    const written = this.#write({ fd, directFd, signal }, packed, position, sum);
    // Whoever waits for it gets the error.
    written.catch(() => {});
    return { kinds: packed.kinds, written };
  }

  /** Writes what was packed, and returns its sum if that is wanted. */
  async #write(
    file: FileToWrite,
    { buffer, used }: Packed,
    position: number,
    sum: boolean,
  ): Promise<string | undefined> {
    const summing = sum ? this.#sum(buffer, used) : undefined;
    // If the write fails, nobody waits for the sum.
    summing?.catch(() => {});
    try {
      await this.#inTurn(() => {
        throwIfAborted(file.signal);
        return this.#writeWhole(file, buffer.subarray(0, used), position);
      });
      return await summing;
    } finally {
      await summing?.catch(() => {});
      if (this.#buffers.length < BUFFERS) this.#buffers.push(buffer);
    }
  }

  /** Does what `XenControl.readPages` says. */
  async readPages(
    domid: Domid,
    gfns: Uint32Array,
    into: Uint8Array,
    rewriter?: PageRewriter,
  ): Promise<Uint8Array> {
    if (into.length < gfns.length * PAGE_SIZE) throw new RangeError(`no room for ${gfns.length} pages`);
    return this.#withMapped(domid, gfns, ({ address, errors }) => {
      const kinds = new Uint8Array(gfns.length);
      const target = this.#addressOf(into);
      for (let i = 0; i < gfns.length; ) {
        if (errors[i] !== 0) {
          kinds[i++] = PAGE_KIND.unmapped;
          continue;
        }
        const from = i++;
        while (errors[i] === 0) i++;
        const length = (i - from) * PAGE_SIZE;
        this.#functions.memcpy.callFast(target + from * PAGE_SIZE, address + from * PAGE_SIZE, length);
      }
      for (const i of rewriter?.pages ?? []) {
        if (kinds[i] !== PAGE_KIND.data) continue;
        const words = new Uint32Array(into.buffer, into.byteOffset + i * PAGE_SIZE, PAGE_SIZE / 4);
        if (rewriter?.rewrite(words, i) !== true) kinds[i] = PAGE_KIND.unmapped;
      }
      return kinds;
    });
  }

  /** Copies memory that the C library has returned. */
  copyOut(address: number | bigint, length: number): Uint8Array {
    return new Uint8Array(this.#koffi.view(address, length)).slice();
  }

  /**
   * Maps the pages, runs `use`, and unmaps them. All in this thread, while another thread writes: handing it over would cost
   * more than it gains.
   */
  #withMapped<T>(domid: Domid, gfns: Uint32Array, use: (pages: MappedPages) => T): T {
    const { xenforeignmemory_map: map, xenforeignmemory_unmap: unmap } = this.#functions;
    const errors = new Int32Array(gfns.length);
    const mapped = map.callHere(this.#handle, domid, PROT_READ, gfns.length, toWords(gfns), errors);
    const address = mapped.value;
    if (typeof address !== 'bigint' || address === 0n) {
      throw new XenCallError('xenforeignmemory_map', mapped.errno, { domid });
    }
    try {
      // An address in user space has 47 bits.
      return use({ address: Number(address), errors });
    } finally {
      unmap.callHere(this.#handle, address, gfns.length);
    }
  }

  /** Copies the head and the pages with data into a buffer, back to back. */
  #pack({ address, errors }: MappedPages, makeHead: HeadMaker, rewriter: PageRewriter | undefined): Packed {
    const kinds = this.#classify(address, errors);
    const copies = this.#rewritten(address, kinds, rewriter);
    const head = makeHead(kinds);
    const buffer = this.#takeBuffer(head.length + kinds.length * PAGE_SIZE);
    buffer.set(head);
    const target = this.#addressOf(buffer);
    let used = head.length;
    for (let i = 0; i < kinds.length; ) {
      if (kinds[i] !== PAGE_KIND.data) {
        i++;
        continue;
      }
      const copy = copies.get(i);
      if (copy !== undefined) {
        buffer.set(copy, used);
        used += PAGE_SIZE;
        i++;
        continue;
      }
      const from = i++;
      while (kinds[i] === PAGE_KIND.data && !copies.has(i)) i++;
      const length = (i - from) * PAGE_SIZE;
      this.#functions.memcpy.callFast(target + used, address + from * PAGE_SIZE, length);
      used += length;
    }
    return { buffer, kinds, used };
  }

  #takeBuffer(bytes: number): Uint8Array {
    const used = this.#buffers.pop();
    if (used !== undefined && used.length >= bytes) return used;
    // At a multiple of 4096, as O_DIRECT needs it.
    const buffer = new Uint8Array(bytes + PAGE_SIZE);
    const start = -this.#addressOf(buffer) & (PAGE_SIZE - 1);
    return buffer.subarray(start, start + bytes);
  }

  /** Sums up what was packed, without the zeros at its end. */
  async #sum(buffer: Uint8Array, used: number): Promise<string | undefined> {
    if (this.#xxh3 === undefined) return undefined;
    const { value } = await this.#xxh3.call(buffer, lengthWithoutZeros(buffer.subarray(0, used)));
    return BigInt(value).toString(16).padStart(16, '0');
  }

  /** Determines the kinds of the pages. Pages that are not mapped are not touched. */
  #classify(address: number, errors: Int32Array): Uint8Array {
    const kinds = new Uint8Array(errors.length);
    let all = true;
    for (let i = 0; i < kinds.length; i++) {
      if (errors[i] === 0) continue;
      kinds[i] = PAGE_KIND.unmapped;
      all = false;
    }
    this.#findZeros(address, kinds, { from: 0, to: kinds.length, whole: all });
    return kinds;
  }

  /**
   * Marks pages of zeros. Memory that a guest does not use is zero in long stretches, so a stretch is looked at as a whole,
   * then its halves.
   * @param stretch `whole`: all of its pages are mapped
   */
  #findZeros(
    address: number,
    kinds: Uint8Array,
    { from, to, whole }: { readonly from: number; readonly to: number; readonly whole: boolean },
  ): void {
    const { memcmp } = this.#functions;
    const isZero = (i: number): boolean =>
      memcmp.callFast(address + i * PAGE_SIZE, this.#addressOfZeros, PAGE_SIZE) === 0;
    const pages = to - from;
    if (whole && pages >= MIN_STRETCH) {
      const start = address + from * PAGE_SIZE;
      // Each page is like the one before it.
      if (isZero(from) && memcmp.callFast(start, start + PAGE_SIZE, (pages - 1) * PAGE_SIZE) === 0) {
        kinds.fill(PAGE_KIND.zero, from, to);
        return;
      }
      const middle = from + (pages >>> 1);
      this.#findZeros(address, kinds, { from, to: middle, whole });
      this.#findZeros(address, kinds, { from: middle, to, whole });
      return;
    }
    for (let i = from; i < to; i++) {
      // memcmp stops at the first byte that differs; in most pages with data that is the first byte.
      if (kinds[i] === PAGE_KIND.data && isZero(i)) kinds[i] = PAGE_KIND.zero;
    }
  }

  /**
   * Returns changed copies of those pages with data that the rewriter handles. Pages that it refuses become
   * unmapped in `kinds`.
   */
  #rewritten(
    address: number,
    kinds: Uint8Array,
    rewriter: PageRewriter | undefined,
  ): ReadonlyMap<number, Uint8Array> {
    const copies = new Map<number, Uint8Array>();
    if (rewriter === undefined || rewriter.pages.length === 0) return copies;
    const buffer = new ArrayBuffer(rewriter.pages.length * PAGE_SIZE);
    const target = this.#addressOf(new Uint8Array(buffer));
    for (const [at, i] of rewriter.pages.entries()) {
      // A page of zeros has no entries to change.
      if (kinds[i] !== PAGE_KIND.data) continue;
      this.#functions.memcpy.callFast(target + at * PAGE_SIZE, address + i * PAGE_SIZE, PAGE_SIZE);
      if (rewriter.rewrite(new Uint32Array(buffer, at * PAGE_SIZE, PAGE_SIZE / 4), i)) {
        copies.set(i, new Uint8Array(buffer, at * PAGE_SIZE, PAGE_SIZE));
      } else kinds[i] = PAGE_KIND.unmapped;
    }
    return copies;
  }

  /** Returns the address of an array of at least 64 bytes. V8 may move smaller ones. */
  #addressOf(bytes: Uint8Array): number {
    if (bytes.length < 64) throw new RangeError(`${bytes.length} bytes are too few: V8 may move them`);
    return Number(this.#koffi.address(bytes));
  }

  /**
   * Writes one batch at a time: a file system lets only one thread write to a file anyway, and threads that
   * wait for it spin. In the meantime other batches are mapped and examined.
   */
  async #inTurn(write: () => Promise<void>): Promise<void> {
    const mine = this.#turn.then(write);
    this.#turn = mine.catch(() => {});
    await mine;
  }

  /**
   * Writes all of `bytes` at an offset.
   * @throws {OutputError} If it fails
   */
  async #writeWhole(file: FileToWrite, bytes: Uint8Array, position: number): Promise<void> {
    let { directFd } = file;
    for (let done = 0; done < bytes.length; ) {
      const aligned = ((position + done) | (bytes.length - done)) % PAGE_SIZE === 0;
      const fd = directFd !== undefined && aligned ? directFd : file.fd;
      try {
        const { bytesWritten } = await this.#writeFd(fd, bytes, done, bytes.length - done, position + done);
        done += bytesWritten;
      } catch (cause) {
        const name = errnoCode(cause) ?? 'unknown error';
        // The file system wants more than these multiples, or cannot do it at all.
        if (name === 'EINVAL' && fd === directFd) {
          directFd = undefined;
          continue;
        }
        throw new OutputError('OUTPUT_WRITE', `cannot write guest memory: ${name}`, {
          cause,
          offset: position + done,
          data: { errno: name },
          hint:
            name === 'ENOSPC' || name === 'EDQUOT'
              ? 'free space on the file system, or write the memory elsewhere (memory_path)'
              : 'check the file system of the memory file',
        });
      }
    }
  }
}
