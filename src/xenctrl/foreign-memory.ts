/** Maps and reads the memory of guests, by libxenforeignmemory. */
import { type Domid, PAGE_SIZE } from '../core/brand.ts';
import { OutputError } from '../core/errors.ts';
import { PAGE_KIND } from '../core/page-kind.ts';
import type { FOREIGNMEMORY, LIBC } from './declarations.ts';
import { errnoName, XenCallError } from './errors.ts';
import { Gather } from './gather.ts';
import type { loadKoffi, NativeFunction } from './native.ts';
import { toWords } from './words.ts';

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

/** Guest pages while they are mapped. Touching them afterwards kills the process. */
interface MappedPages {
  readonly address: number;
  /** Negated errnos. Touching a page whose error is not 0 kills the process too. */
  readonly errors: Int32Array;
}

type MemoryFunctions = Readonly<
  Record<
    | keyof (typeof FOREIGNMEMORY)['functions']
    | Extract<keyof (typeof LIBC)['functions'], 'memcmp' | 'memcpy' | 'pwritev'>,
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
  readonly #zeros = new Uint8Array(PAGE_SIZE);
  #turn: Promise<void> = Promise.resolve();

  constructor(
    koffi: Awaited<ReturnType<typeof loadKoffi>>,
    functions: MemoryFunctions,
    handle: number | bigint,
  ) {
    this.#koffi = koffi;
    this.#functions = functions;
    this.#handle = handle;
  }

  /** Does what `XenControl.packPages` says. */
  async packPages(
    domid: Domid,
    gfns: Uint32Array,
    fd: number,
    position: number,
    makeHead: HeadMaker,
    rewriter?: PageRewriter,
  ): Promise<Uint8Array> {
    return await this.#withMapped(domid, gfns, async ({ address, errors }) => {
      const kinds = this.#classify(address, errors);
      const copies = this.#rewritten(address, kinds, rewriter);
      const gather = new Gather(gfns.length + 1);
      const head = makeHead(kinds);
      gather.addBytes(head, this.#addressOf(head));
      for (let i = 0; i < kinds.length; i++) {
        if (kinds[i] !== PAGE_KIND.data) continue;
        const copy = copies.get(i);
        if (copy === undefined) gather.add(address + i * PAGE_SIZE, PAGE_SIZE);
        else gather.addBytes(copy, this.#addressOf(copy));
      }
      await this.#inTurn(() => this.#write(fd, gather, position));
      return kinds;
    });
  }

  /** Does what `XenControl.readPages` says. */
  async readPages(
    domid: Domid,
    gfns: Uint32Array,
    into: Uint8Array,
    rewriter?: PageRewriter,
  ): Promise<Uint8Array> {
    if (into.length < gfns.length * PAGE_SIZE) throw new RangeError(`no room for ${gfns.length} pages`);
    return await this.#withMapped(domid, gfns, async ({ address, errors }) => {
      const kinds = new Uint8Array(gfns.length);
      const target = this.#addressOf(into);
      for (let i = 0; i < gfns.length; i++) {
        if (errors[i] !== 0) kinds[i] = PAGE_KIND.unmapped;
        else {
          this.#functions.memcpy.callFast(target + i * PAGE_SIZE, address + i * PAGE_SIZE, PAGE_SIZE);
        }
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
   * Maps the pages, runs `use`, and unmaps them when its promise is settled. Mapping, examining and unmapping
   * run in this thread while another thread writes: handing them over too would cost more than it gains.
   */
  async #withMapped<T>(domid: Domid, gfns: Uint32Array, use: (pages: MappedPages) => Promise<T>): Promise<T> {
    const { xenforeignmemory_map: map, xenforeignmemory_unmap: unmap } = this.#functions;
    const errors = new Int32Array(gfns.length);
    const mapped = map.callHere(this.#handle, domid, PROT_READ, gfns.length, toWords(gfns), errors);
    const address = mapped.value;
    if (typeof address !== 'bigint' || address === 0n) {
      throw new XenCallError('xenforeignmemory_map', mapped.errno, { domid });
    }
    try {
      // An address in user space has 47 bits.
      return await use({ address: Number(address), errors });
    } finally {
      unmap.callHere(this.#handle, address, gfns.length);
    }
  }

  /** Determines the kinds of the pages. Pages that are not mapped are not touched. */
  #classify(address: number, errors: Int32Array): Uint8Array {
    const { memcmp } = this.#functions;
    const zeros = this.#addressOf(this.#zeros);
    const kinds = new Uint8Array(errors.length);
    for (let i = 0; i < kinds.length; i++) {
      if (errors[i] !== 0) kinds[i] = PAGE_KIND.unmapped;
      // memcmp stops at the first byte that differs; in most pages with data that is the first byte.
      else if (memcmp.callFast(address + i * PAGE_SIZE, zeros, PAGE_SIZE) === 0) kinds[i] = PAGE_KIND.zero;
    }
    return kinds;
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

  async #write(fd: number, gather: Gather, position: number): Promise<void> {
    let at = position;
    while (gather.bytes > 0) {
      const { value, errno } = await this.#functions.pwritev.call(fd, gather.entries, gather.count, at);
      const bytes = Number(value);
      if (bytes > 0) {
        gather.advance(bytes);
        at += bytes;
      } else if (bytes === 0 || errnoName(errno) !== 'EINTR') {
        const name = bytes === 0 ? 'nothing was written' : errnoName(errno);
        throw new OutputError('OUTPUT_WRITE', `cannot write guest memory: ${name}`, {
          offset: at,
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
