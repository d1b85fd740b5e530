import { writeSync } from 'node:fs';
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
 * where `zero` says so.
 */
export class FakeGuest implements Guest {
  readonly p2mSize: number;
  maxBatch = 64;
  readonly calls: FakeGuestCalls = { batches: [], mostAtOnce: 0, running: 0, mostTypes: 0 };
  /** Replaces what a batch does before it writes: errors, delays. */
  beforeCopy: (batch: PageBatch) => Promise<void> = () => Promise.resolve();
  hvmParamList: { index: number; value: bigint }[] = [{ index: 1, value: 0xfeffcn }];
  policy = { leaves: new Uint8Array(24).fill(1), msrs: new Uint8Array(16).fill(2) };
  readonly #types: Uint8Array;
  readonly #zero: (pfn: number) => boolean;

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
    if (!this.#zero(pfn)) new Uint32Array(page.buffer).fill(pfn + 1);
    return page;
  }

  async pageTypes(pfns: Uint32Array): Promise<Uint8Array> {
    this.calls.mostTypes = Math.max(this.calls.mostTypes, pfns.length);
    return Uint8Array.from(pfns, (pfn) => this.#types[pfn] ?? 15);
  }

  async copyPages(fd: number, batch: PageBatch, { sparse }: { sparse: boolean }): Promise<BatchOutcome> {
    const { calls } = this;
    calls.batches.push(batch);
    calls.running++;
    calls.mostAtOnce = Math.max(calls.mostAtOnce, calls.running);
    try {
      await this.beforeCopy(batch);
      let zero = 0;
      for (const [i, pfn] of batch.pfns.entries()) {
        if (sparse && this.#zero(pfn)) zero++;
        else writeSync(fd, this.page(pfn), 0, PAGE, batch.position + i * PAGE);
      }
      return { written: batch.pfns.length - zero, zero };
    } finally {
      calls.running--;
    }
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
