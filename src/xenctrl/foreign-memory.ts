import { type Domid, PAGE_SIZE } from '../core/brand.ts';
import { OutputError } from '../core/errors.ts';
import type { FOREIGNMEMORY } from './declarations.ts';
import { errnoName, XenCallError } from './errors.ts';
import type { loadKoffi, NativeFunction } from './native.ts';
import { toWords } from './words.ts';

/** PROT_READ (sys/mman.h). */
const PROT_READ = 1;
/**
 * Runs of at least this many pages are written in a thread of the pool. A call there costs some 8 µs of this thread, a
 * write of one page to the page cache 1 µs.
 */
const RUN_FOR_THREAD = 16;
/**
 * Mappings of at least so many pages are made in a thread. A turn of one costs 10 µs, and several times that when the
 * threads sleep or the processors are busy; mapping a page costs well below 1 µs.
 */
const MAP_FOR_THREAD = 256;
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

/** Guest pages while they are mapped. Touching them afterwards kills the process. */
interface MappedPages {
  readonly address: number;
  readonly bytes: Uint8Array;
  /** Negated errnos; touching a page whose error is not 0 kills the process too. */
  readonly errors: Int32Array;
}

/** Foreign memory of guests. Pointers and views never leave it. */
export class ForeignMemory {
  readonly #koffi: Awaited<ReturnType<typeof loadKoffi>>;
  readonly #map: NativeFunction;
  readonly #unmap: NativeFunction;
  readonly #pwrite: NativeFunction;
  readonly #handle: number | bigint;
  #turn: Promise<void> = Promise.resolve();

  constructor(
    koffi: Awaited<ReturnType<typeof loadKoffi>>,
    functions: Readonly<Record<keyof (typeof FOREIGNMEMORY)['functions'], NativeFunction>>,
    pwrite: NativeFunction,
    handle: number | bigint,
  ) {
    this.#koffi = koffi;
    this.#map = functions.xenforeignmemory_map;
    this.#unmap = functions.xenforeignmemory_unmap;
    this.#pwrite = pwrite;
    this.#handle = handle;
  }

  /** See `XenControl.copyPages`. */
  async copyPages(
    domid: Domid,
    gfns: Uint32Array,
    positions: Float64Array,
    fd: number,
    sparse: boolean,
  ): Promise<{ zero: number; unmapped: number[] }> {
    return await this.#withMapped(domid, gfns, async ({ address, bytes, errors }) => {
      const kinds = classify(bytes, errors, sparse);
      await this.#inTurn(async () => {
        for (const { from, to } of runsOfData(kinds, positions)) {
          const offset = from * PAGE_SIZE;
          const length = (to - from) * PAGE_SIZE;
          // Most runs are short and are written at once; only then is there nothing to wait for.
          const rest = this.#write(fd, address + offset, length, positions[from] ?? 0);
          if (rest !== undefined) await rest;
        }
      });
      let zero = 0;
      const unmapped: number[] = [];
      for (let i = 0; i < kinds.length; i++) {
        if (kinds[i] === ZERO) zero++;
        else if (kinds[i] === UNMAPPED) unmapped.push(gfns[i] ?? 0);
      }
      return { zero, unmapped };
    });
  }

  /** A copy of memory that the C library has handed out. */
  copyOut(address: number | bigint, length: number): Uint8Array {
    return new Uint8Array(this.#koffi.view(address, length)).slice();
  }

  /** Maps the pages, runs `use`, and unmaps them when its promise is settled. */
  async #withMapped<T>(domid: Domid, gfns: Uint32Array, use: (pages: MappedPages) => Promise<T>): Promise<T> {
    const errors = new Int32Array(gfns.length);
    const args = [this.#handle, domid, PROT_READ, gfns.length, toWords(gfns), errors] as const;
    const few = gfns.length < MAP_FOR_THREAD;
    const mapped = few ? this.#map.callHere(...args) : await this.#map.call(...args);
    const address = mapped.value;
    if (typeof address !== 'bigint' || address === 0n) {
      throw new XenCallError('xenforeignmemory_map', mapped.errno, { domid });
    }
    try {
      const bytes = new Uint8Array(this.#koffi.view(address, gfns.length * PAGE_SIZE));
      // An address of user space has 47 bits.
      return await use({ address: Number(address), bytes, errors });
    } finally {
      if (few) this.#unmap.callHere(this.#handle, address, gfns.length);
      else await this.#unmap.call(this.#handle, address, gfns.length);
    }
  }

  /**
   * One batch after the other: a file system lets one thread at a time write to a file anyway, and those that wait
   * for it spin. Meanwhile others are mapped and looked at.
   */
  async #inTurn(write: () => Promise<void>): Promise<void> {
    const mine = this.#turn.then(write);
    this.#turn = mine.catch(() => {});
    await mine;
  }

  /** Writes here and now; what is left goes on in a promise. */
  #write(fd: number, address: number, length: number, position: number): Promise<void> | undefined {
    if (length < RUN_FOR_THREAD * PAGE_SIZE) {
      if (this.#pwrite.callFast(fd, address, length, position) === length) return undefined;
    }
    return this.#writeInThread(fd, address, length, position);
  }
  async #writeInThread(fd: number, address: number, length: number, position: number): Promise<void> {
    let done = 0;
    while (done < length) {
      const { value, errno } = await this.#pwrite.call(fd, address + done, length - done, position + done);
      const octets = Number(value);
      if (octets > 0) done += octets;
      else if (octets === 0 || errnoName(errno) !== 'EINTR') {
        const name = octets === 0 ? 'nothing was written' : errnoName(errno);
        throw new OutputError('OUTPUT_WRITE', `cannot write guest memory: ${name}`, {
          offset: position + done,
          data: { errno: name },
          hint:
            name === 'ENOSPC' || name === 'EDQUOT'
              ? 'make room on the file system, or write the memory elsewhere (memory_path)'
              : 'check the file system of the memory file',
        });
      }
    }
  }
}

/** What is done with a page. */
const DATA = 0;
const ZERO = 1;
const UNMAPPED = 2;

/** Looks at the pages; those that are not mapped are not touched. Without `sparse` zeros are data. */
function classify(bytes: Uint8Array, errors: Int32Array, sparse: boolean): Uint8Array {
  const memory = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const kinds = new Uint8Array(errors.length);
  for (let page = 0; page < kinds.length; page++) {
    if (errors[page] !== 0) kinds[page] = UNMAPPED;
    // Most pages with data show it in the first word; for the others memcmp is the fastest there is.
    else if (sparse && words[page * (PAGE_SIZE / 4)] === 0) {
      const at = page * PAGE_SIZE;
      if (memory.compare(ZERO_PAGE, 0, PAGE_SIZE, at, at + PAGE_SIZE) === 0) kinds[page] = ZERO;
    }
  }
  return kinds;
}

/** Runs of pages with data that stand back to back in the file: `from`, up to but not including `to`. */
export function* runsOfData(
  kinds: Uint8Array,
  positions: Float64Array,
): Generator<{ from: number; to: number }> {
  let from = 0;
  while (from < kinds.length) {
    if (kinds[from] !== DATA) {
      from++;
      continue;
    }
    const place = (positions[from] ?? 0) - from * PAGE_SIZE;
    let to = from + 1;
    while (to < kinds.length && kinds[to] === DATA && positions[to] === place + to * PAGE_SIZE) to++;
    yield { from, to };
    from = to;
  }
}
