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
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

/** Guest pages while they are mapped. Touching them afterwards kills the process. */
interface MappedPages {
  readonly address: bigint;
  readonly bytes: Uint8Array;
}

/** Foreign memory of guests. Pointers and views never leave it. */
export class ForeignMemory {
  readonly #koffi: Awaited<ReturnType<typeof loadKoffi>>;
  readonly #map: NativeFunction;
  readonly #unmap: NativeFunction;
  readonly #pwrite: NativeFunction;
  readonly #handle: number | bigint;

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
    fd: number,
    position: number,
    sparse: boolean,
  ): Promise<{ written: number; zero: number }> {
    return await this.#withMapped(domid, gfns, async ({ address, bytes }) => {
      let written = 0;
      for (const { from, to } of sparse ? runsOfData(bytes) : [{ from: 0, to: gfns.length }]) {
        const offset = from * PAGE_SIZE;
        await this.#write(fd, address + BigInt(offset), (to - from) * PAGE_SIZE, position + offset);
        written += to - from;
      }
      return { written, zero: gfns.length - written };
    });
  }

  /** Maps the pages, runs `use`, and unmaps them when its promise is settled. */
  async #withMapped<T>(domid: Domid, gfns: Uint32Array, use: (pages: MappedPages) => Promise<T>): Promise<T> {
    const errors = new Int32Array(gfns.length);
    const mapped = await this.#map.call(this.#handle, domid, PROT_READ, gfns.length, toWords(gfns), errors);
    const address = mapped.value;
    if (typeof address !== 'bigint' || address === 0n) {
      throw new XenCallError('xenforeignmemory_map', mapped.errno, { domid });
    }
    try {
      const bad = errors.findIndex((error) => error !== 0);
      if (bad >= 0) {
        throw new XenCallError('xenforeignmemory_map', -(errors[bad] ?? 0), {
          domid,
          data: { gfn: gfns[bad] },
        });
      }
      const bytes = new Uint8Array(this.#koffi.view(address, gfns.length * PAGE_SIZE));
      return await use({ address, bytes });
    } finally {
      await this.#unmap.call(this.#handle, address, gfns.length);
    }
  }

  async #write(fd: number, address: bigint, length: number, position: number): Promise<void> {
    let done = 0;
    while (done < length) {
      const args = [fd, address + BigInt(done), length - done, position + done] as const;
      const { value, errno } =
        length < RUN_FOR_THREAD * PAGE_SIZE
          ? this.#pwrite.callHere(...args)
          : await this.#pwrite.call(...args);
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

/** The runs of pages that are not all zeros: `from`, up to but not including `to`. */
export function* runsOfData(bytes: Uint8Array): Generator<{ from: number; to: number }> {
  const memory = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const pages = bytes.byteLength / PAGE_SIZE;
  let from = -1;
  for (let page = 0; page < pages; page++) {
    const at = page * PAGE_SIZE;
    // Most pages with data show it in the first word; for the others memcmp is the fastest there is.
    const zero = words[at / 4] === 0 && memory.compare(ZERO_PAGE, 0, PAGE_SIZE, at, at + PAGE_SIZE) === 0;
    if (zero && from >= 0) {
      yield { from, to: page };
      from = -1;
    } else if (!zero && from < 0) {
      from = page;
    }
  }
  if (from >= 0) yield { from, to: pages };
}
