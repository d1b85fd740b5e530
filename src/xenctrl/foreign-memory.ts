/** Maps and reads the memory of guests, by libxenforeignmemory. */
import { write } from 'node:fs';
import { promisify } from 'node:util';
import { type Domid, PAGE_SIZE } from '../core/brand.ts';
import { errnoCode, OutputError } from '../core/errors.ts';
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
/** So many buffers are kept while nothing is written: as many as are in use when the disk keeps pace. */
const IDLE_BUFFERS = 8;
/** Room for the head of a record, unless it is longer. */
const HEAD_ROOM = 8192;
/** Bytes before the words for each page in a head, and of each word (libxc's PAGE_DATA record). */
const HEAD_BYTES = 16;
const WORD_BYTES = 8;
/** PROT_READ (sys/mman.h). */
const PROT_READ = 1;
/**
 * Makes the head of a stretch of the file, once the kinds of its pages are known: at most 8192 bytes, or 16 and 8 for each page if
 * that is more.
 */
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
  /** Whether pages of zeros are left out. Default: true. */
  readonly sparse?: boolean | undefined;
  /** Whether to sum up what is written. */
  readonly sum?: boolean | undefined;
  /** The same file, opened with O_DIRECT. It is used if position and length are multiples of 4096. */
  readonly directFd?: number | undefined;
  /** Asked before each write; if it rejects, nothing is written. */
  readonly mayWrite?: (() => Promise<void>) | undefined;
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
  readonly mayWrite: (() => Promise<void>) | undefined;
}

/** A stretch of the file, in memory. */
interface Packed {
  readonly buffer: Buffer;
  readonly kinds: Uint8Array;
  /** The part of the buffer with the head and the pages with data. */
  readonly bytes: Uint8Array;
}

/** Pages that are being copied to a buffer. */
interface Packing extends Pick<PackOptions, 'rewriter'> {
  /** Where they are mapped. */
  readonly address: number;
  readonly kinds: Uint8Array;
  readonly buffer: Buffer;
  /** The same as 32-bit words. */
  readonly words: Uint32Array;
  /** Address of the buffer. */
  readonly target: number;
  /** Indices of the pages that the rewriter changes. */
  readonly tables: ReadonlySet<number>;
  readonly sparse: boolean;
  /** Bytes of the buffer that are in use. */
  used: number;
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
  readonly #zeros = Buffer.alloc(PAGE_SIZE);
  readonly #addressOfZeros: number;
  /** Buffers for packing that are not in use. The kernel and V8 take long to provide others. */
  readonly #buffers: Buffer[] = [];
  /** Stretches that wait to be written, or are being written. */
  #writing = 0;
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
    options: PackOptions = {},
  ): Promise<PackedPages> {
    const packed = this.#withMapped(domid, gfns, (pages) => this.#pack(pages, makeHead, options));
    const { sum = false, directFd, mayWrite } = options;
    const written = this.#write({ fd, directFd, mayWrite }, packed, position, sum);
    // Whoever waits for it gets the error.
    written.catch(() => {});
    return { kinds: packed.kinds, written };
  }

  /** Writes what was packed, and returns its sum if that is wanted. */
  async #write(
    file: FileToWrite,
    { buffer, bytes }: Packed,
    position: number,
    sum: boolean,
  ): Promise<string | undefined> {
    this.#writing++;
    const summing = sum ? this.#sum(bytes) : undefined;
    // If the write fails, nobody waits for the sum.
    summing?.catch(() => {});
    try {
      await this.#inTurn(async () => {
        await file.mayWrite?.();
        await this.#writeWhole(file, bytes, position);
      });
      return await summing;
    } finally {
      await summing?.catch(() => {});
      this.#buffers.push(buffer);
      // What had piled up behind a slow disk is not kept for as long as the guest is open.
      if (--this.#writing === 0) this.#buffers.length = Math.min(this.#buffers.length, IDLE_BUFFERS);
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
  #pack(
    { address, errors }: MappedPages,
    makeHead: HeadMaker,
    { rewriter, sparse = true }: PackOptions,
  ): Packed {
    const count = errors.length;
    const kinds = Uint8Array.from(errors, (error) => (error === 0 ? PAGE_KIND.data : PAGE_KIND.unmapped));
    // The head is known last. Where it fills this, everything is where O_DIRECT wants it.
    const room = Math.max(HEAD_ROOM, Math.ceil((HEAD_BYTES + count * WORD_BYTES) / PAGE_SIZE) * PAGE_SIZE);
    const buffer = this.#takeBuffer(room + count * PAGE_SIZE);
    const packing: Packing = {
      address,
      kinds,
      buffer,
      words: new Uint32Array(buffer.buffer, buffer.byteOffset, buffer.length / 4),
      target: this.#addressOf(buffer),
      rewriter,
      tables: new Set(rewriter?.pages),
      sparse,
      used: room,
    };
    this.#copyStretch(packing, 0, count, kinds.includes(PAGE_KIND.unmapped));
    const head = makeHead(kinds);
    if (head.length > room) throw new RangeError(`a head of ${head.length} bytes for ${count} pages`);
    const start = room - head.length;
    buffer.set(head, start);
    return { buffer, kinds, bytes: buffer.subarray(start, packing.used) };
  }

  /**
   * Copies the pages with data of a stretch behind those that were copied before. Memory that a guest does not use is zero in long
   * stretches, so a stretch is looked at as a whole, then its halves, and only then it is copied.
   */
  #copyStretch(packing: Packing, from: number, to: number, hasHoles: boolean): void {
    const pages = to - from;
    if (!hasHoles && packing.sparse && pages >= MIN_STRETCH) {
      if (this.#isZeros(packing.address + from * PAGE_SIZE, pages)) {
        packing.kinds.fill(PAGE_KIND.zero, from, to);
        return;
      }
      const middle = from + (pages >>> 1);
      this.#copyStretch(packing, from, middle, hasHoles);
      this.#copyStretch(packing, middle, to, hasHoles);
      return;
    }
    const { kinds } = packing;
    for (let i = from; i < to; ) {
      if (kinds[i] !== PAGE_KIND.data) {
        i++;
        continue;
      }
      const first = i;
      while (i < to && i - first < MIN_STRETCH && kinds[i] === PAGE_KIND.data) i++;
      this.#copyRun(packing, first, i);
    }
  }

  #isZeros(start: number, pages: number): boolean {
    const { memcmp } = this.#functions;
    return (
      memcmp.callFast(start, this.#addressOfZeros, PAGE_SIZE) === 0 &&
      // Each page is like the one before it.
      memcmp.callFast(start, start + PAGE_SIZE, (pages - 1) * PAGE_SIZE) === 0
    );
  }

  /**
   * Copies a run of mapped pages, then closes the gaps that pages of zeros leave: the copy is in the processor's cache, and looking at
   * it needs no call of the C library for each page.
   */
  #copyRun(packing: Packing, from: number, to: number): void {
    const { address, kinds, buffer, words, target, rewriter, tables, sparse, used: start } = packing;
    this.#functions.memcpy.callFast(target + start, address + from * PAGE_SIZE, (to - from) * PAGE_SIZE);
    for (let i = from; i < to; i++) {
      const at = start + (i - from) * PAGE_SIZE;
      if (
        sparse &&
        words[at / 4] === 0 &&
        buffer.compare(this.#zeros, 0, PAGE_SIZE, at, at + PAGE_SIZE) === 0
      ) {
        kinds[i] = PAGE_KIND.zero;
      } else if (tables.has(i)) {
        const page = words.subarray(at / 4, (at + PAGE_SIZE) / 4);
        if (rewriter?.rewrite(page, i) !== true) kinds[i] = PAGE_KIND.unmapped;
      }
    }
    for (let i = from; i < to; ) {
      if (kinds[i] !== PAGE_KIND.data) {
        i++;
        continue;
      }
      const first = i;
      while (i < to && kinds[i] === PAGE_KIND.data) i++;
      const at = start + (first - from) * PAGE_SIZE;
      const length = (i - first) * PAGE_SIZE;
      if (at !== packing.used) buffer.copyWithin(packing.used, at, at + length);
      packing.used += length;
    }
  }

  #takeBuffer(bytes: number): Buffer {
    const used = this.#buffers.pop();
    if (used !== undefined && used.length >= bytes) return used;
    // At a multiple of 4096, as O_DIRECT needs it.
    const memory = new Uint8Array(bytes + PAGE_SIZE);
    const start = -this.#addressOf(memory) & (PAGE_SIZE - 1);
    return Buffer.from(memory.buffer, start, bytes);
  }

  /** Sums up what was packed, without the zeros at its end. */
  async #sum(bytes: Uint8Array): Promise<string | undefined> {
    if (this.#xxh3 === undefined) return undefined;
    const { value } = await this.#xxh3.call(bytes, lengthWithoutZeros(bytes));
    return BigInt(value).toString(16).padStart(16, '0');
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
