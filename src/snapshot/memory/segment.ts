/** One pass over the memory of a guest, written to a file record by record. */
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { Bitmap } from '../../core/bitmap.ts';
import { PAGE_SIZE } from '../../core/brand.ts';
import { DomainError, throwIfAborted } from '../../core/errors.ts';
import { PAGE_KIND } from '../../core/page-kind.ts';
import { PAGE_TYPE, SlotLayout } from '../../savefmt/index.ts';
import type { Tuning } from '../api.ts';
import type { PositionalOutput } from '../output/file.ts';
import type { Guest } from '../ports.ts';
import { Lanes } from './lanes.ts';
import { PageSet } from './page-set.ts';
import type { CopyProgress } from './progress.ts';

/** Records under way at once: as many as libuv's pool has threads unless told otherwise. */
const IN_FLIGHT = 4;

/** A record is copied when the one before it is written, unless that takes longer than this. */
const PATIENCE_MS = 100;

/** How a pass is written. */
interface WriterOptions {
  /**
   * Where pages are noted that cannot be mapped, since the guest has given them away; without it that is an error, as it is when
   * the guest is suspended.
   */
  readonly deferred: Bitmap | undefined;
  readonly signal: AbortSignal | undefined;
  readonly tuning: Tuning;
  /**
   * How many bytes may be copied and wait to be written; `run` does not wait for those, but the output knows of them. Default: it
   * waits until all is written.
   */
  readonly mayWait?: number | undefined;
}

/** What a `Segment` knows. */
export interface Places {
  /** Where its first record is. */
  readonly start: number;
  /** The bits of its pfns. */
  readonly pages: Uint8Array;
  /** Which of them had no data; see `emptyBit`. */
  readonly empty: Uint8Array;
}

/**
 * Pages with their places in the file, as they were copied first. Within a record those that had data then stand before
 * the others, so that a record is one write and at most one hole.
 */
export class Segment {
  readonly #pages: PageSet;
  readonly #layout: SlotLayout;
  readonly #empty: Bitmap;

  /** @param empty which pages have had no data; bit `emptyBit(index)` of a page's index */
  constructor(pages: PageSet, layout: SlotLayout, empty: Bitmap) {
    this.#pages = pages;
    this.#layout = layout;
    this.#empty = empty;
  }

  /**
   * Makes one from what another one knew.
   * @returns undefined if it has pages beyond the p2m, or does not know of each whether it had data
   */
  static of({ start, pages, empty }: Places, p2mSize: number): Segment | undefined {
    const set = PageSet.of(pages, p2mSize);
    if (set === undefined) return undefined;
    const layout = SlotLayout.create({ firstRecordOffset: start, count: set.count });
    const bits = new Bitmap(layout.recordCount * bitsPerRecord(layout.perRecord));
    if (empty.length !== bits.bytes.length) return undefined;
    bits.bytes.set(empty);
    return new Segment(set, layout, bits);
  }

  get places(): Places {
    const { recordCount, perRecord } = this.#layout;
    const bytes = Math.ceil((recordCount * bitsPerRecord(perRecord)) / 64) * 8;
    return {
      start: this.#layout.start,
      pages: this.#pages.bits,
      empty: this.#empty.bytes.subarray(0, bytes),
    };
  }

  /** Where its first record is. */
  get start(): number {
    return this.#layout.start;
  }

  /** The first byte behind its last record. */
  get end(): number {
    return this.#layout.end;
  }

  /** Number of pages. */
  get count(): number {
    return this.#pages.count;
  }

  /** Sets the bits of its pages in `pfns`, a bitmap of the guest's p2m. */
  addTo(pfns: Bitmap): void {
    this.#pages.addTo(pfns);
  }

  /** The slot of a page (`SlotLayout`), or -1. */
  slotOf(pfn: number): number {
    const index = this.#pages.indexOf(pfn);
    if (index < 0) return -1;
    const { perRecord } = this.#layout;
    const first = index - (index % perRecord);
    const from = emptyBit(first, perRecord);
    const bit = emptyBit(index, perRecord);
    const before = this.#empty.countBelow(bit, from);
    if (!this.#empty.has(bit)) return index - before;
    const { count } = this.#layout.record(first / perRecord);
    return first + count - this.#empty.countBelow(from + count, from) + before;
  }

  /** File offset of the data in a slot. */
  dataOffset(slot: number): number {
    return this.#layout.slotOffset(slot);
  }

  /** File offset of a slot's pfn word. */
  wordOffset(slot: number): number {
    return this.#layout.wordOffset(slot);
  }
}

/** Each record's bits begin at a multiple of 32, where they can be counted from. */
export function emptyBit(index: number, perRecord: number): number {
  return Math.floor(index / perRecord) * bitsPerRecord(perRecord) + (index % perRecord);
}

/** Bits of one record in the bitmap of a `Segment`. */
export function bitsPerRecord(perRecord: number): number {
  return Math.ceil(perRecord / 32) * 32;
}

/** A PAGE_DATA record that is still to be written. */
export interface PlannedRecord {
  readonly pfns: Uint32Array;
  /** What precedes its pages. */
  readonly head: Uint8Array;
  /** Where in the file it goes. */
  readonly offset: number;
}

/**
 * Gives pages their places, all of them with data, without writing anything.
 * @param types of each pfn, ascending
 * @param start where the first record goes
 */
export function layOut(
  types: ReadonlyMap<number, number>,
  p2mSize: number,
  start: number,
  perRecord: number | undefined,
): { readonly segment: Segment; readonly records: readonly PlannedRecord[]; readonly end: number } {
  const layout = SlotLayout.create({
    firstRecordOffset: start,
    count: types.size,
    perRecord,
  });
  const pages = new PageSet(p2mSize);
  const all = Uint32Array.from(types.keys());
  for (const pfn of all) pages.add(pfn);
  const records = Array.from({ length: layout.recordCount }, (_, index) => {
    const { offset, firstIndex, count } = layout.record(index);
    const pfns = all.subarray(firstIndex, firstIndex + count);
    const ofThem = Uint8Array.from(pfns, (pfn) => types.get(pfn) ?? PAGE_TYPE.notab);
    return { pfns, head: layout.encodeHead(index, pfns, ofThem), offset };
  });
  const empty = new Bitmap(layout.recordCount * bitsPerRecord(layout.perRecord));
  return { segment: new Segment(pages, layout, empty), records, end: layout.end };
}

/** Lays pages out in PAGE_DATA records as they come and copies them, several records at once. */
export class SegmentWriter {
  /** Pages that were all zeros. */
  zero = 0;
  readonly #guest: Guest;
  readonly #output: PositionalOutput;
  readonly #progress: CopyProgress;
  readonly #signal: AbortSignal | undefined;
  readonly #deferred: Bitmap | undefined;
  readonly #lanes: Lanes;
  readonly #sparse: boolean;
  readonly #sums: boolean;
  /** When the record that was copied last is written. */
  #last: Promise<unknown> = Promise.resolve();
  /** Whether a write has taken longer than `PATIENCE_MS`. */
  #isSlow = false;
  /** Records that are copied and wait to be written; undefined if each is written before it counts as copied. */
  readonly #writes: Lanes | undefined;
  readonly #pages: PageSet;
  readonly #empty: Bitmap;
  /** Until `end`, of as many pages as there might be. */
  #layout: SlotLayout;
  #written = 0;
  #pfns: Uint32Array;
  #types: Uint8Array;
  #count = 0;
  /** A record's pages in the order in which they stand there, while its head is made. */
  readonly #packed: { readonly pfns: Uint32Array; readonly types: Uint8Array };

  /** @param start where the first record goes */
  constructor(
    guest: Guest,
    output: PositionalOutput,
    start: number,
    progress: CopyProgress,
    options: WriterOptions,
  ) {
    this.#guest = guest;
    this.#output = output;
    this.#progress = progress;
    this.#signal = options.signal;
    this.#deferred = options.deferred;
    this.#pages = new PageSet(guest.p2mSize);
    const { inFlight = IN_FLIGHT, sparse = true, batchPages, checksums = true } = options.tuning;
    this.#sums = checksums;
    this.#sparse = sparse;
    this.#layout = SlotLayout.create({
      firstRecordOffset: start,
      count: guest.p2mSize,
      perRecord: batchPages,
    });
    const { perRecord, recordCount } = this.#layout;
    this.#lanes = new Lanes(inFlight);
    if (options.mayWait !== undefined) {
      const records = Math.floor(options.mayWait / (perRecord * PAGE_SIZE));
      // As many again may be copied and wait for room.
      this.#writes = new Lanes(Math.max(inFlight, records - inFlight));
    }
    this.#empty = new Bitmap(recordCount * bitsPerRecord(perRecord));
    this.#pfns = new Uint32Array(perRecord);
    this.#types = new Uint8Array(perRecord);
    this.#packed = { pfns: new Uint32Array(perRecord), types: new Uint8Array(perRecord) };
  }

  /**
   * Runs `body`, which adds pages, and waits until all are copied; see `WriterOptions`.
   * @returns the pages' places, and the offset behind the last record
   */
  async run(body: () => Promise<void>): Promise<{ segment: Segment; end: number }> {
    let failure: unknown;
    try {
      await body();
      const { start, perRecord } = this.#layout;
      this.#layout = SlotLayout.create({
        firstRecordOffset: start,
        count: this.#pages.count,
        perRecord,
      });
      if (this.#count > 0) await this.flush();
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      await this.#lanes.end().catch((error: unknown) => {
        if (failure === undefined) throw error;
      });
    }
    this.#progress.tell();
    return { segment: new Segment(this.#pages, this.#layout, this.#empty), end: this.#layout.end };
  }

  /**
   * @param pfn above all before
   * @returns whether the record is full, and `flush` has to come
   */
  add(pfn: number, type: number): boolean {
    this.#pages.add(pfn);
    this.#pfns[this.#count] = pfn;
    this.#types[this.#count++] = type;
    return this.#count === this.#pfns.length;
  }

  /** Starts copying a record when there is room for it. */
  async flush(): Promise<void> {
    throwIfAborted(this.#signal);
    const record = this.#written++;
    const pfns = this.#pfns.subarray(0, this.#count);
    const types = this.#types.subarray(0, this.#count);
    this.#pfns = new Uint32Array(this.#layout.perRecord);
    this.#types = new Uint8Array(this.#layout.perRecord);
    this.#count = 0;
    await this.#lanes.start(() => this.#copy(record, pfns, types));
    // Copying leaves this thread no time to hand over what is to be written next.
    if (this.#writes !== undefined) await setImmediate();
  }

  async #copy(record: number, pfns: Uint32Array, types: Uint8Array): Promise<void> {
    const layout = this.#layout;
    const { offset, dataOffset, count } = layout.record(record);
    const makeHead = (seen: Uint8Array): Uint8Array => {
      this.#pack(pfns, types, seen);
      const { length } = pfns;
      return layout.encodeHead(
        record,
        this.#packed.pfns.subarray(0, length),
        this.#packed.types.subarray(0, length),
      );
    };
    const { fd, directFd } = this.#output;
    const mayWrite = () => this.#output.mayWrite();
    const options = { sparse: this.#sparse, sum: this.#sums, directFd, mayWrite };
    const { kinds, written } = await this.#guest.packPages(fd, pfns, offset, makeHead, options);
    this.#output.noteWrite({ from: offset, to: dataOffset + count * PAGE_SIZE }, written);
    if (this.#writes === undefined) await written;
    else {
      await this.#writes.start(async () => {
        await written;
      });
      await this.#keepPace(written);
    }
    const firstBit = record * bitsPerRecord(layout.perRecord);
    const unmapped: number[] = [];
    for (let i = 0; i < kinds.length; i++) {
      if (kinds[i] === PAGE_KIND.data) continue;
      this.#empty.set(firstBit + i);
      if (kinds[i] === PAGE_KIND.zero) this.zero++;
      else unmapped.push(pfns[i] ?? 0);
    }
    if (unmapped.length > 0 && this.#deferred === undefined) throw unmappableError(unmapped);
    for (const pfn of unmapped) this.#deferred?.set(pfn);
    if (this.#deferred !== undefined) this.#output.beginSync();
    this.#progress.add(pfns.length - unmapped.length);
  }

  /**
   * Waits for writes that are about as fast as copying, since copies in buffers that were just used cost less than those in new ones;
   * once one takes longer, no more.
   */
  async #keepPace(written: Promise<unknown>): Promise<void> {
    const before = this.#last;
    this.#last = written;
    if (this.#isSlow) return;
    const isLate = await Promise.race([before.then(() => false), sleep(PATIENCE_MS, true, { ref: false })]);
    if (isLate) this.#isSlow = true;
  }

  /** The pages with data, then the others. */
  #pack(pfns: Uint32Array, types: Uint8Array, kinds: Uint8Array): void {
    const packed = this.#packed;
    const { length } = kinds;
    let data = 0;
    let other = 0;
    for (let i = 0; i < length; i++) if (kinds[i] === PAGE_KIND.data) other++;
    for (let i = 0; i < length; i++) {
      const to = kinds[i] === PAGE_KIND.data ? data++ : other++;
      packed.pfns[to] = pfns[i] ?? -1;
      packed.types[to] = types[i] ?? -1;
    }
  }
}

/** The suspended guest is without pages that it had. */
export function unmappableError(pfns: readonly number[]): DomainError {
  return new DomainError('PAGE_UNMAPPABLE', `page ${pfns[0]} of the suspended guest cannot be mapped`, {
    data: { pfns: pfns.slice(0, 10), count: pfns.length },
    hint: 'is another program changing the memory of this guest?',
  });
}
