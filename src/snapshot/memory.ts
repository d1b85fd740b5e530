import { PAGE_SIZE } from '../core/brand.ts';
import { DomainError, throwIfAborted } from '../core/errors.ts';
import { type Reporter, silentReporter } from '../core/reporter.ts';
import { encodeAmendment, hasPageData, PAGE_TYPE, SlotLayout } from '../savefmt/index.ts';
import type { Guest } from './ports.ts';
import type { CallOptions } from './types.ts';

/** pfns whose types are asked for in one go; the signal is looked at in between. */
const TYPE_CHUNK = 64 * 1024;
/** Batches under way at once: as many as libuv's pool has threads unless told otherwise. */
const IN_FLIGHT = 4;
const PROGRESS_INTERVAL_MS = 100;
/** Entries without data in one record; 8 MiB of them. */
const BARE_PER_RECORD = 1024 * 1024;

const NO_PAGES = new Uint8Array(0);

/** pfns in ascending order with their 4-bit types. */
export interface TypedPfns {
  readonly pfns: Uint32Array;
  readonly types: Uint8Array;
}

/** What of the guest goes where in the file. */
export interface MemoryPlan {
  /** Pages with data, each with a slot in `layout`. */
  readonly pages: TypedPfns;
  /** Pages without data that a restore must know of: BROKEN and XALLOC. */
  readonly bare: TypedPfns;
  readonly layout: SlotLayout;
}

/** A file that is written at offsets. */
export interface PositionalOutput {
  readonly fd: number;
  /** @throws OutputError */
  writeAt(bytes: Uint8Array, position: number): Promise<void>;
}

export interface MemoryOutcome {
  /** Pages with data. */
  readonly pages: number;
  /** How many of them are all zeros and were left as holes. */
  readonly zeroPages: number;
  /** Offset of the first octet behind the last PAGE_DATA record. */
  readonly end: number;
}

/**
 * Finds the populated pages of a guest and lays them out. The guest must not change its memory map until
 * the memory is saved: it is suspended.
 *
 * Pages of type XTAB have no entry: nothing is there.
 * @param firstRecordOffset a multiple of 4096, where the first PAGE_DATA record goes
 * @throws DomainError, InterruptedError, and what `Guest.pageTypes` throws
 */
export async function planMemory(
  guest: Guest,
  firstRecordOffset: number,
  { signal }: Pick<CallOptions, 'signal'> = {},
): Promise<MemoryPlan> {
  if (guest.p2mSize > 2 ** 32) {
    throw new DomainError(
      'DOMAIN_P2M',
      `the guest's p2m has ${guest.p2mSize} entries; at most 2^32 can be saved`,
    );
  }
  const pages = new TypedPfnList();
  const bare = new TypedPfnList();
  for (let from = 0; from < guest.p2mSize; from += TYPE_CHUNK) {
    throwIfAborted(signal);
    const pfns = new Uint32Array(Math.min(TYPE_CHUNK, guest.p2mSize - from));
    for (let i = 0; i < pfns.length; i++) pfns[i] = from + i;
    const types = await guest.pageTypes(pfns);
    pages.addWhere(pfns, types, hasPageData);
    bare.addWhere(pfns, types, (type) => !hasPageData(type) && type !== PAGE_TYPE.xtab);
  }
  const populated = pages.join();
  return {
    pages: populated,
    bare: bare.join(),
    layout: SlotLayout.create({ firstRecordOffset, count: populated.pfns.length }),
  };
}

/**
 * Writes all PAGE_DATA records. When it rejects, nothing writes to the file any more.
 * @throws OutputError, InterruptedError, and what `Guest.copyPages` throws
 */
export async function saveMemory(
  guest: Guest,
  output: PositionalOutput,
  { pages, bare, layout }: MemoryPlan,
  { signal, reporter = silentReporter }: CallOptions = {},
): Promise<MemoryOutcome> {
  for (let i = 0; i < layout.recordCount; i++) {
    throwIfAborted(signal);
    await output.writeAt(layout.encodeHead(i, pages.pfns, pages.types), layout.record(i).offset);
  }
  const progress = new PageProgress(reporter, layout.count);
  let next = 0;
  let zeroPages = 0;
  let failed = false;
  const copy = async (): Promise<void> => {
    while (next < layout.count && !failed) {
      throwIfAborted(signal);
      const first = next;
      next += Math.min(guest.maxBatch, layout.runLength(first));
      const pfns = pages.pfns.subarray(first, next);
      const outcome = await guest.copyPages(
        output.fd,
        { pfns, position: layout.slotOffset(first) },
        { sparse: true },
      );
      zeroPages += outcome.zero;
      progress.add(pfns.length);
    }
  };
  const copies = Array.from({ length: IN_FLIGHT }, () =>
    copy().catch((error: unknown) => {
      failed = true;
      throw error;
    }),
  );
  // All have to end before the guest or the file may be closed.
  const failure = (await Promise.allSettled(copies)).find((copied) => copied.status === 'rejected');
  if (failure !== undefined) throw failure.reason;
  progress.tell();
  let end = layout.end;
  for (let from = 0; from < bare.pfns.length; from += BARE_PER_RECORD) {
    const to = from + BARE_PER_RECORD;
    const record = encodeAmendment(bare.pfns.subarray(from, to), bare.types.subarray(from, to), NO_PAGES);
    await output.writeAt(record, end);
    end += record.length;
  }
  return { pages: layout.count, zeroPages, end };
}

/** Collects pfns and their types in compact arrays. */
class TypedPfnList {
  readonly #pfns: Uint32Array[] = [];
  readonly #types: Uint8Array[] = [];

  addWhere(pfns: Uint32Array, types: Uint8Array, wanted: (type: number) => boolean): void {
    const keptPfns = new Uint32Array(pfns.length);
    const keptTypes = new Uint8Array(pfns.length);
    let count = 0;
    for (let i = 0; i < pfns.length; i++) {
      const type = types[i] ?? PAGE_TYPE.xtab;
      if (!wanted(type)) continue;
      keptPfns[count] = pfns[i] ?? 0;
      keptTypes[count] = type;
      count++;
    }
    if (count === 0) return;
    this.#pfns.push(keptPfns.slice(0, count));
    this.#types.push(keptTypes.slice(0, count));
  }

  join(): TypedPfns {
    const count = this.#pfns.reduce((sum, part) => sum + part.length, 0);
    const pfns = new Uint32Array(count);
    const types = new Uint8Array(count);
    let at = 0;
    for (const [i, part] of this.#pfns.entries()) {
      pfns.set(part, at);
      types.set(this.#types[i] ?? [], at);
      at += part.length;
    }
    return { pfns, types };
  }
}

/** Tells the reporter how far the copy is, not too often. */
class PageProgress {
  readonly #reporter: Reporter;
  readonly #total: number;
  readonly #start = performance.now();
  #done = 0;
  #told = this.#start;

  constructor(reporter: Reporter, total: number) {
    this.#reporter = reporter;
    this.#total = total;
  }

  add(pages: number): void {
    this.#done += pages;
    if (performance.now() - this.#told >= PROGRESS_INTERVAL_MS) this.tell();
  }

  tell(): void {
    const now = performance.now();
    this.#told = now;
    this.#reporter.progress({
      phase: 'memory',
      done: this.#done,
      total: this.#total,
      unit: 'pages',
      rate: (this.#done * PAGE_SIZE * 1000) / Math.max(1, now - this.#start),
    });
  }
}
