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

/** Number of windows that are kept. The kernel maps at the same few addresses again and again. */
const KNOWN_WINDOWS = 32;
/** So many buffers are kept while nothing is written: as many as are in use when the disk keeps pace. */
const IDLE_BUFFERS = 8;
/** Room for the head of a record, unless it is longer. */
const HEAD_ROOM = 8192;
/** Bytes before the words for each page in a head, and of each word (libxc's PAGE_DATA record). */
const HEAD_BYTES = 16;
const WORD_BYTES = 8;
/** 32-bit words. */
const WORDS_PER_PAGE = PAGE_SIZE / 4;
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

/** Mapped pages, as JavaScript sees them. */
interface Window {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
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
 * Foreign memory of guests. No pointer and no view of it leaves this class: to touch them when it is not mapped any more kills the
 * process.
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
  /** By address. They outlive their mapping, and may be touched only while pages are mapped there. */
  readonly #windows = new Map<number, Window>();
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
    const kinds = kindsOf(errors);
    const window = this.#window(address, count);
    if (sparse) this.#markZeros(address, window.words, kinds);
    // The head is known last. Where it fills this, everything is where O_DIRECT wants it.
    const room = Math.max(HEAD_ROOM, Math.ceil((HEAD_BYTES + count * WORD_BYTES) / PAGE_SIZE) * PAGE_SIZE);
    const buffer = this.#takeBuffer(room + count * PAGE_SIZE);
    const rewritten = new Uint8Array(count);
    for (const page of rewriter?.pages ?? []) rewritten[page] = 1;
    let used = room;
    for (let i = 0; i < count; ) {
      if (kinds[i] !== PAGE_KIND.data) {
        i++;
        continue;
      }
      const from = i;
      i++;
      // A page that is rewritten comes alone: it may turn out to be unreadable.
      if (rewritten[from] === 0) while (kinds[i] === PAGE_KIND.data && rewritten[i] === 0) i++;
      buffer.set(window.bytes.subarray(from * PAGE_SIZE, i * PAGE_SIZE), used);
      if (rewritten[from] === 1) {
        const page = new Uint32Array(buffer.buffer, buffer.byteOffset + used, WORDS_PER_PAGE);
        if (rewriter?.rewrite(page, from) !== true) {
          kinds[from] = PAGE_KIND.unmapped;
          continue;
        }
      }
      used += (i - from) * PAGE_SIZE;
    }
    const head = makeHead(kinds);
    if (head.length > room) throw new RangeError(`a head of ${head.length} bytes for ${count} pages`);
    const start = room - head.length;
    buffer.set(head, start);
    return { buffer, kinds, bytes: buffer.subarray(start, used) };
  }

  /** Finds the pages of zeros among those that have `PAGE_KIND.data`. */
  #markZeros(address: number, words: Uint32Array, kinds: Uint8Array): void {
    const count = kinds.length;
    for (let i = 0; i < count; i++) {
      const from = i;
      // Only few pages begin with zeros and have others behind them.
      while (i < count && kinds[i] === PAGE_KIND.data && words[i * WORDS_PER_PAGE] === 0) i++;
      if (i > from) this.#markStretch(address, kinds, from, i);
    }
  }

  /**
   * Memory that a guest does not use is zero in long stretches, so a stretch is looked at as a whole, then its halves. The C library
   * does it, in less than half of the time that JavaScript takes.
   */
  #markStretch(address: number, kinds: Uint8Array, from: number, to: number): void {
    if (this.#isZeros(address + from * PAGE_SIZE, to - from)) {
      kinds.fill(PAGE_KIND.zero, from, to);
    } else if (to - from > 1) {
      const middle = from + ((to - from) >>> 1);
      this.#markStretch(address, kinds, from, middle);
      this.#markStretch(address, kinds, middle, to);
    }
  }

  #isZeros(start: number, pages: number): boolean {
    const { memcmp } = this.#functions;
    return (
      memcmp.callFast(start, this.#addressOfZeros, PAGE_SIZE) === 0 &&
      // Each page is like the one before it.
      (pages === 1 || memcmp.callFast(start, start + PAGE_SIZE, (pages - 1) * PAGE_SIZE) === 0)
    );
  }

  /** Returns the window at an address. Making one for each mapping would have V8 collect garbage all the time. */
  #window(address: number, pages: number): Window {
    const known = this.#windows.get(address);
    if (known !== undefined && known.bytes.length >= pages * PAGE_SIZE) return known;
    if (this.#windows.size >= KNOWN_WINDOWS) this.#windows.clear();
    const memory = this.#koffi.view(BigInt(address), pages * PAGE_SIZE);
    const window = { bytes: new Uint8Array(memory), words: new Uint32Array(memory) };
    this.#windows.set(address, window);
    return window;
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

/** Whether each page is mapped. */
function kindsOf(errors: Int32Array): Uint8Array {
  const kinds = new Uint8Array(errors.length);
  for (let i = 0; i < errors.length; i++) kinds[i] = errors[i] === 0 ? PAGE_KIND.data : PAGE_KIND.unmapped;
  return kinds;
}
