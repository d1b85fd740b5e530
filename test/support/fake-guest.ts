import { writeSync } from 'node:fs';
import type { Bitmap } from '../../src/core/bitmap.ts';
import type { BatchOutcome, Guest, PageBatch, TscInfo } from '../../src/snapshot/ports.ts';

const PAGE = 4096;

/** What happened to a FakeGuest. */
export interface FakeGuestCalls {
  readonly batches: PageBatch[];
  /** Most `copyPages` that ran at once. */
  mostAtOnce: number;
  /** `copyPages` that run now. */
  running: number;
  /** Most pfns that `pageTypes` was asked for at once. */
  mostTypes: number;
}

/**
 * A guest whose memory is made up: `types` is its p2m, and a page holds its pfn in each word, or only zeros
 * where `zero` says so, until it is written to. Its dirty log works as Xen's does.
 */
export class FakeGuest implements Guest {
  readonly p2mSize: number;
  maxBatch = 64;
  readonly calls: FakeGuestCalls = { batches: [], mostAtOnce: 0, running: 0, mostTypes: 0 };
  /** Replaces what a batch does before it writes: errors, delays. */
  beforeCopy: (batch: PageBatch) => Promise<void> = () => Promise.resolve();
  hvmParamList: { index: number; value: bigint }[] = [{ index: 1, value: 0xfeffcn }];
  policy = { leaves: new Uint8Array(24).fill(1), msrs: new Uint8Array(16).fill(2) };
  /** Whether its dirty log is on, and how often it was taken. */
  logging = false;
  taken = 0;
  readonly #types: Uint8Array;
  readonly #zero: (pfn: number) => boolean;
  /** What was written to a page since it was made up. */
  readonly #written = new Map<number, number>();
  readonly #dirty = new Set<number>();

  /** By default a small guest: 200 pages, a hole, 100 pages of which some are zeros, nothing above. */
  constructor(
    types: Uint8Array = new Uint8Array(400).fill(15, 200, 232).fill(15, 332),
    zero: (pfn: number) => boolean = (pfn) => pfn % 10 === 0,
  ) {
    this.p2mSize = types.length;
    this.#types = types;
    this.#zero = zero;
  }

  /** Memory it has, octets. */
  get memoryBytes(): number {
    return this.#types.filter((type) => type !== 15).length * PAGE;
  }

  /** Content of a page. */
  page(pfn: number): Uint8Array {
    const page = new Uint8Array(PAGE);
    new Uint32Array(page.buffer).fill(this.#word(pfn));
    return page;
  }

  /** The guest fills a page with a word. */
  write(pfn: number, word: number): void {
    this.#written.set(pfn, word);
    this.#dirty.add(pfn);
  }

  /** The guest gives a page away, or gets one: 15 is none. */
  setType(pfn: number, type: number): void {
    this.#types[pfn] = type;
    this.#dirty.add(pfn);
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

  async copyPages(fd: number, batch: PageBatch, { sparse }: { sparse: boolean }): Promise<BatchOutcome> {
    const { calls } = this;
    calls.batches.push(batch);
    calls.running++;
    calls.mostAtOnce = Math.max(calls.mostAtOnce, calls.running);
    try {
      await this.beforeCopy(batch);
      let zero = 0;
      const unmapped: number[] = [];
      for (const [i, pfn] of batch.pfns.entries()) {
        if (this.typeOf(pfn) >= 13) unmapped.push(pfn);
        else if (sparse && this.#word(pfn) === 0) zero++;
        else writeSync(fd, this.page(pfn), 0, PAGE, batch.positions[i]);
      }
      return { zero, unmapped };
    } finally {
      calls.running--;
    }
  }

  async startDirtyLog(): Promise<void> {
    this.logging = true;
    this.#dirty.clear();
  }

  async takeDirty(pages: Bitmap): Promise<void> {
    if (!this.logging) throw new Error('the dirty log is off');
    this.taken++;
    for (const pfn of this.#dirty) pages.set(pfn);
    this.#dirty.clear();
  }

  async stopDirtyLog(): Promise<void> {
    this.logging = false;
  }

  async cpuPolicy(): Promise<{ leaves: Uint8Array; msrs: Uint8Array }> {
    return this.policy;
  }

  async tscInfo(): Promise<TscInfo> {
    return { mode: 1, khz: 2_400_000, nsec: 5_000_000_000n, incarnation: 3 };
  }

  async hvmContext(): Promise<Uint8Array> {
    return Uint8Array.of(1, 2, 3, 4, 5);
  }

  async hvmParams(): Promise<readonly { index: number; value: bigint }[]> {
    return this.hvmParamList;
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
