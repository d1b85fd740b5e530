/** A guest with simulated memory and a simulated dirty log. */
import { fstatSync, write } from 'node:fs';
import { promisify } from 'node:util';
import { xxhash3 } from 'hash-wasm';
import type { Bitmap } from '../core/bitmap.ts';
import { DomainError } from '../core/errors.ts';
import { PAGE_KIND } from '../core/page-kind.ts';
import { lengthWithoutZeros } from '../core/zeros.ts';
import type { LibxcStateRecord } from '../savefmt/index.ts';
import type { Guest, LogMarks, PackedPages, PackOptions } from '../snapshot/ports.ts';

const PAGE = 4096;

/** As it was before any test watched the calls to files. */
const statOf = fstatSync;

/** Tells whether what is written there goes nowhere, as in a rehearsal. */
export function isNowhere(fd: number): boolean {
  return statOf(fd).isCharacterDevice();
}

/** The calls that a FakeGuest has received. */
export interface FakeGuestCalls {
  /** pfns of each `packPages`, in the order of the calls. */
  readonly packed: Uint32Array[];
  /** pfns of each `readPages`. */
  readonly read: Uint32Array[];
  /** Maximum number of `packPages` that ran at once. */
  mostAtOnce: number;
  /** Number of `packPages` that are running. */
  running: number;
  /** Maximum number of stretches that were copied and not yet written, and how many there are now. */
  mostWriting: number;
  writing: number;
  /** Maximum number of pfns that `pageTypes` was asked for at once. */
  mostTypes: number;
}

/**
 * A guest with simulated memory. `types` is its p2m. Until it is written to, a page has its pfn in each word,
 * or only zeros if `zero` says so. The dirty log works as Xen's does.
 */
export class FakeGuest implements Guest {
  p2mSize: number;
  maxBatch = 1024;
  readonly calls: FakeGuestCalls = {
    packed: [],
    read: [],
    mostAtOnce: 0,
    running: 0,
    mostWriting: 0,
    writing: 0,
    mostTypes: 0,
  };
  /** Called before pages are copied, to cause errors or delays. */
  beforeCopy: (pfns: Uint32Array) => Promise<void> = () => Promise.resolve();
  /** Called before what was copied is written to a file, to cause errors or delays. */
  beforeWrite: (position: number) => Promise<void> = () => Promise.resolve();
  streamType: 'pv' | 'hvm' = 'hvm';
  /** Where the p2m is, for a PV guest. */
  p2mFrame = 1n;
  /** Whether the dirty log is on. */
  logging = false;
  taken = 0;
  /** Whether another program has restarted the log since it was last taken. */
  logLost = false;
  #types: Uint8Array;
  /** Pages that were added above the p2m, which `settle` finds. */
  #grown: Uint8Array = new Uint8Array(0);
  readonly #zero: (pfn: number) => boolean;
  /** The word that was last written to each page. */
  readonly #written = new Map<number, number>();
  readonly #dirty = new Set<number>();
  #turn: Promise<unknown> = Promise.resolve();

  /** Creates a guest. Default: a small one, with 200 pages, a hole, and 100 pages of which some are zeros. */
  constructor(
    types: Uint8Array = new Uint8Array(400).fill(15, 200, 232).fill(15, 332),
    zero: (pfn: number) => boolean = (pfn) => pfn % 10 === 0,
  ) {
    this.p2mSize = types.length;
    this.#types = types;
    this.#zero = zero;
  }

  /** The guest's memory in bytes. */
  get memoryBytes(): number {
    return this.#types.filter((type) => type !== 15).length * PAGE;
  }

  /** Returns the content of a page. */
  page(pfn: number): Uint8Array {
    const page = new Uint8Array(PAGE);
    new Uint32Array(page.buffer).fill(this.#word(pfn));
    return page;
  }

  /** Fills a page with a word, as the guest. */
  write(pfn: number, word: number): void {
    this.#written.set(pfn, word);
    if (this.logging) this.#dirty.add(pfn);
  }

  /** Changes the type of a page: the guest gives it away or gets it. 15 means no page. */
  setType(pfn: number, type: number): void {
    this.#types[pfn] = type;
    if (this.logging) this.#dirty.add(pfn);
  }

  /** The guest gives a page away, and the log does not show it. */
  loseSilently(pfn: number): void {
    this.#types[pfn] = 15;
  }

  typeOf(pfn: number): number {
    return this.#types[pfn] ?? 15;
  }

  #word(pfn: number): number {
    return this.#written.get(pfn) ?? (this.#zero(pfn) ? 0 : pfn + 1);
  }

  async pageTypes(pfns: Uint32Array): Promise<Uint8Array> {
    this.calls.mostTypes = Math.max(this.calls.mostTypes, pfns.length);
    return Uint8Array.from(pfns, (pfn) => this.typeOf(pfn));
  }

  pageTypesFrom(first: number, count: number): Promise<Uint8Array> {
    return this.pageTypes(Uint32Array.from({ length: count }, (_, i) => first + i));
  }

  async pageCount(): Promise<number> {
    return this.memoryBytes / PAGE;
  }

  async packPages(
    fd: number,
    pfns: Uint32Array,
    position: number,
    makeHead: (kinds: Uint8Array) => Uint8Array,
    { sum = false, sparse = true, mayWrite }: PackOptions = {},
  ): Promise<PackedPages> {
    const { calls } = this;
    calls.packed.push(pfns);
    calls.running++;
    calls.mostAtOnce = Math.max(calls.mostAtOnce, calls.running);
    try {
      await this.beforeCopy(pfns);
      const kinds = Uint8Array.from(pfns, (pfn) => {
        if (this.typeOf(pfn) >= 13) return PAGE_KIND.unmapped;
        return sparse && this.#word(pfn) === 0 ? PAGE_KIND.zero : PAGE_KIND.data;
      });
      const head = makeHead(kinds);
      const data = [...pfns].filter((_, i) => kinds[i] === PAGE_KIND.data).map((pfn) => this.page(pfn));
      const bytes = Buffer.concat([head, ...data]);
      const written = this.#writePacked(async () => {
        await mayWrite?.();
        if (!isNowhere(fd)) await this.beforeWrite(position);
        await promisify(write)(fd, bytes, 0, bytes.length, position);
        return sum ? await xxhash3(bytes.subarray(0, lengthWithoutZeros(bytes))) : undefined;
      });
      written.catch(() => {});
      return { kinds, written };
    } finally {
      calls.running--;
    }
  }

  /** One after the other, and in a thread, as the real one writes: this thread must continue if the file system hangs. */
  async #writePacked<T>(one: () => Promise<T>): Promise<T> {
    const { calls } = this;
    calls.writing++;
    calls.mostWriting = Math.max(calls.mostWriting, calls.writing);
    const mine = this.#turn.then(one);
    this.#turn = mine.catch(() => {});
    try {
      return await mine;
    } finally {
      calls.writing--;
    }
  }

  async readPages(pfns: Uint32Array, into: Uint8Array): Promise<Uint8Array> {
    this.calls.read.push(pfns);
    await this.beforeCopy(pfns);
    return Uint8Array.from(pfns, (pfn, i) => {
      if (this.typeOf(pfn) >= 13) return PAGE_KIND.unmapped;
      into.set(this.page(pfn), i * PAGE);
      return PAGE_KIND.data;
    });
  }

  async startDirtyLog(): Promise<void> {
    this.logging = true;
    this.#dirty.clear();
  }

  async takeDirty(
    pages: Bitmap,
    { final }: { readonly final: boolean } = { final: false },
  ): Promise<boolean> {
    this.taken++;
    // Xen gives an empty bitmap, and the final round turns the log on to see that it was off.
    if (!this.logging) {
      if (final) throw new DomainError('DIRTY_LOG_LOST', 'the log is off');
      return true;
    }
    if (this.logLost) {
      this.logLost = false;
      this.#dirty.clear();
      for (let pfn = 0; pfn < this.p2mSize; pfn++) pages.set(pfn);
      return false;
    }
    for (const pfn of this.#dirty) pages.set(pfn);
    this.#dirty.clear();
    return true;
  }

  async stopDirtyLog(): Promise<void> {
    this.logging = false;
    this.#dirty.clear();
  }

  /** The mark is a pfn without a page, which no test writes to. */
  get logMarks(): LogMarks | undefined {
    if (this.streamType === 'pv') return undefined;
    return {
      set: async () => {
        const mark = this.#types.indexOf(15);
        if (mark < 0) return [];
        if (this.logging) this.#dirty.add(mark);
        return [mark];
      },
      peek: async (pages) => {
        if (this.logging) for (const pfn of this.#dirty) pages.set(pfn);
      },
    };
  }

  /**
   * Does what a program does that saves or migrates the domain, while it runs: it restarts the log, and takes what is in it. When it
   * ends well, it turns the log off.
   */
  foreignSave({ killed = false }: { readonly killed?: boolean } = {}): void {
    this.#dirty.clear();
    this.logging = killed;
  }

  /** Adds pages of these types above all others. */
  grow(types: Uint8Array): void {
    this.#grown = types;
  }

  async settle({ mayGrow }: { mayGrow: boolean }): Promise<void> {
    if (this.#grown.length === 0) return;
    if (!mayGrow) throw new DomainError('P2M_RESIZED', 'the memory map has grown');
    this.#types = Uint8Array.from([...this.#types, ...this.#grown]);
    this.#grown = new Uint8Array(0);
    this.p2mSize = this.#types.length;
  }

  async staticRecords(): Promise<readonly LibxcStateRecord[]> {
    const pv = { name: 'X86_PV_INFO', guestWidth: 8, ptLevels: 4, reserved1: 0, reserved2: 0 } as const;
    const leaf = { leaf: 1, subleaf: 0, eax: 1, ebx: 2, ecx: 3, edx: 4 };
    return [
      ...(this.streamType === 'pv' ? [pv] : []),
      { name: 'X86_CPUID_POLICY', leaves: [leaf] },
      // Reserved bits are set, of which verify and inspect warn.
      { name: 'X86_MSR_POLICY', entries: [{ index: 1, flags: 2, value: 2n }] },
    ];
  }

  async startRecords(): Promise<readonly LibxcStateRecord[]> {
    if (this.streamType !== 'pv') return [];
    const frames = new BigUint64Array(Math.ceil(this.p2mSize / 512)).fill(this.p2mFrame);
    return [{ name: 'X86_PV_P2M_FRAMES', startPfn: 0, endPfn: this.p2mSize - 1, frames }];
  }

  async stateRecords(): Promise<readonly LibxcStateRecord[]> {
    const tsc = { mode: 1, khz: 2_400_000, nsec: 5_000_000_000n, incarnation: 3, reserved: 0 };
    if (this.streamType === 'pv') {
      return [
        { name: 'X86_TSC_INFO', ...tsc },
        { name: 'SHARED_INFO', data: new Uint8Array(PAGE) },
        { name: 'X86_PV_VCPU_BASIC', vcpuId: 0, reserved: 0, context: new Uint8Array(5168) },
      ];
    }
    return [
      { name: 'X86_TSC_INFO', ...tsc },
      { name: 'HVM_CONTEXT', data: Uint8Array.of(1, 2, 3, 4, 5) },
      { name: 'HVM_PARAMS', reserved: 0, params: [{ index: 1n, value: 0xfeffcn }] },
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
