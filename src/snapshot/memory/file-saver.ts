/** Writes the memory of a guest to a file. */
import { Bitmap } from '../../core/bitmap.ts';
import { PAGE_SIZE } from '../../core/brand.ts';
import type { CallOptions } from '../../core/call-options.ts';
import { DomainError, throwIfAborted } from '../../core/errors.ts';
import { PAGE_KIND } from '../../core/page-kind.ts';
import { type Reporter, silentReporter } from '../../core/reporter.ts';
import { spareMemory } from '../../core/spare-memory.ts';
import { AllocationLayout, encodeAmendment, hasPageData, PAGE_TYPE, PfnWords } from '../../savefmt/index.ts';
import type { Tuning } from '../api.ts';
import type { PositionalOutput } from '../output/file.ts';
import type { Guest } from '../ports.ts';
import { allocatedPages, allocationRoom } from './allocation.ts';
import { forEachPage, type PageTypes } from './each-page.ts';
import { fillGaps } from './fill-gaps.ts';
import { LaterWrites } from './later-writes.ts';
import { CopyProgress } from './progress.ts';
import { layOut, type Segment, SegmentWriter, unmappableError } from './segment.ts';

/** Gaps are filled among so many dirty pages at a time: 64 MiB. */
const FILLED_TOGETHER = 16 * 1024;
/** Entries without data in one record; 8 MiB of them. */
const BARE_PER_RECORD = 1024 * 1024;
/** Bytes of a pfn word in a record's head. */
const WORD = 8;
/** Where a page goes that has no place. */
const NOWHERE = -1;

const NO_PAGES = new Uint8Array(0);

/** Memory of the guest that is in the file already. */
export interface AdoptedMemory {
  readonly segments: readonly Segment[];
  /** Where the records with pages begin and end. */
  readonly start: number;
  readonly end: number;
  readonly zeroPages: number;
}

export interface MemoryOutcome {
  /** Pages with data. */
  readonly pages: number;
  /** Pages that a restore gives the guest: each once, those without data too. */
  readonly populated: number;
  /** How many of those with data were all zeros when they were first copied, and were left as holes. */
  readonly zeroPages: number;
  /** Pages of a live snapshot for which there was no room in memory: they were written while the guest stood still. */
  readonly writtenStopped: number;
  /** Offset of the first PAGE_DATA record that may have data. */
  readonly start: number;
  /** Offset of the first byte behind the last PAGE_DATA record. */
  readonly end: number;
  /** Of a file: where the pages are that were not written behind all others. */
  readonly segments: readonly Segment[];
}

export interface MemoryOptions extends CallOptions {
  /** Pages that the guest has, about; for the progress. */
  readonly expectedPages: number;
  readonly tuning?: Tuning | undefined;
  /** How many bytes may wait in memory until the guest runs again. Default: what the host can spare. */
  readonly spareMemory?: (() => number) | undefined;
}

/** Writes a guest's memory, stopped or live; see `FileSaver`. */
export interface PageSaver {
  copyAll(deferred?: Bitmap, types?: PageTypes): Promise<number>;
  copyDirty(dirty: Bitmap, round: number): Promise<number>;
  lastCopyMs(pages: number): number | undefined;
  readyToKeep(pages: number): void;
  copyLast(dirty: Bitmap, round: number): Promise<number>;
  finish(): Promise<MemoryOutcome>;
  writeKept(): Promise<void>;
}

/** Records of pages without data, which stand behind the others. */
export function* encodeBare(bare: ReadonlyMap<number, number>): Generator<Uint8Array> {
  const pfns = Uint32Array.from(bare.keys()).sort();
  for (let from = 0; from < pfns.length; from += BARE_PER_RECORD) {
    const part = pfns.subarray(from, from + BARE_PER_RECORD);
    const types = Uint8Array.from(part, (pfn) => bare.get(pfn) ?? PAGE_TYPE.xtab);
    yield encodeAmendment(part, types, NO_PAGES);
  }
}

/** Pages and where in the file they go. */
interface PlacedPages {
  readonly pfns: Uint32Array;
  /** Offsets in bytes. */
  readonly offsets: Float64Array;
}

/** Copies of pages, and where in the file they go. */
interface Copies {
  /** Page i at byte 4096 * i. */
  readonly bytes: Uint8Array;
  /** Offsets in the file, or `NOWHERE`. */
  readonly offsets: Float64Array;
}

/**
 * Writes a guest's memory into PAGE_DATA records in which each page has one place, however often it is written.
 *
 * `copyAll` comes first. While the guest runs, its pages change again, or come and go: `copyDirty` takes care of those
 * that the hypervisor says were written. `copyLast` copies what the suspended guest has written since; a guest that was
 * suspended for `copyAll` needs none. `finish` ends the records, and `writeKept` makes the file right: it may come when
 * the guest runs again. From `copyLast` to `writeKept` nothing is written to the file, unless memory runs short; what
 * `copyAll` copied of a suspended guest may still be written then.
 *
 * Before the pages of an HVM or PVH guest there are records that allocate them (`AllocationLayout`), so that a restore can
 * give it superpages. Their room is kept free by `copyAll`; `writeKept` fills it, when it is known which pages there are.
 *
 * A page that comes into being after `copyAll` gets a place in records behind the others. One that vanishes leaves its
 * place to another page's name, so that a restore does not bring it back, as it does from libxc's own stream.
 *
 * Methods run one at a time. When one rejects, nothing writes to the file any more but what the output knows of
 * (`PositionalOutput.noteWrite`). They throw OutputError, InterruptedError, and what the methods of `Guest` throw.
 */
export class FileSaver implements PageSaver {
  readonly #guest: Guest;
  readonly #output: PositionalOutput;
  readonly #signal: AbortSignal | undefined;
  readonly #reporter: Reporter;
  readonly #expectedPages: number;
  readonly #tuning: Tuning;
  readonly #segments: Segment[] = [];
  /** Types of pages that have a place and are not NOTAB. */
  readonly #typed = new Map<number, number>();
  /** Pages that a restore must know of and that have no data: BROKEN, XALLOC, and XTAB where earlier entries have data. */
  readonly #bare = new Map<number, number>();
  /** What the file gets when the guest runs again. */
  readonly #later: LaterWrites;
  /** Bytes of a stopped guest's memory that may be copied and wait to be written. */
  readonly #mayWait: number;
  /** From `copyLast` on nothing goes to the file while the guest is stopped. */
  #waiting = false;
  #writtenStopped = 0;
  /** Room for the records that allocate the pages. */
  #allocation: AllocationLayout | undefined;
  /** Pages whose place has another page's name. */
  readonly #gone = new Set<number>();
  /** Where the records with pages begin. */
  #start: number;
  /** What copying pages into memory has taken so far. */
  readonly #reading = { pages: 0, ms: 0 };
  #end: number;
  #zeroPages = 0;
  /** How many of the segments were in the file before. */
  #adopted = 0;

  /**
   * @param firstRecordOffset a multiple of 4096, where the first PAGE_DATA record goes
   * @throws {DomainError} If the guest has too many pages
   */
  constructor(guest: Guest, output: PositionalOutput, firstRecordOffset: number, options: MemoryOptions) {
    if (guest.p2mSize > 2 ** 32) {
      throw new DomainError(
        'DOMAIN_P2M',
        `the guest's p2m has ${guest.p2mSize} entries; at most 2^32 can be saved`,
      );
    }
    this.#guest = guest;
    this.#output = output;
    this.#start = firstRecordOffset;
    this.#end = firstRecordOffset;
    this.#signal = options.signal;
    this.#reporter = options.reporter ?? silentReporter;
    this.#expectedPages = options.expectedPages;
    this.#tuning = options.tuning ?? {};
    this.#later = new LaterWrites(options.spareMemory ?? spareMemory);
    // Asked now, while the guest runs. The other half leaves the host its page cache.
    this.#mayWait = this.#later.limit / 2;
  }

  /**
   * Takes the place of `copyAll` in a file that has the guest's memory as it was earlier: only what is dirty is copied. Returns
   * which pages have places.
   */
  adopt({ segments, start, end, zeroPages }: AdoptedMemory): Bitmap {
    const regions = AllocationLayout.regionsBetween(this.#end, start);
    this.#allocation = regions === 0 ? undefined : new AllocationLayout(this.#end, regions);
    this.#segments.push(...segments);
    this.#adopted = segments.length;
    this.#start = start;
    this.#end = end;
    this.#zeroPages = zeroPages;
    const placed = new Bitmap(this.#guest.p2mSize);
    for (const segment of segments) segment.addTo(placed);
    return placed;
  }

  /**
   * Finds the populated pages, gives each its place, and copies it; a page of zeros becomes a hole. Pages of type
   * XTAB have no entry: nothing is there.
   * @param deferred where pages are noted that could not be mapped, since the guest has given them away; without
   * it that is an error, as it is when the guest is suspended
   * @param types of the pages, if they are known
   * @returns pages copied
   */
  async copyAll(deferred?: Bitmap, types: PageTypes = this.#guest): Promise<number> {
    const live = deferred !== undefined;
    this.#allocation = allocationRoom(this.#guest, this.#end, this.#expectedPages, live);
    if (this.#allocation !== undefined) this.#end = this.#allocation.end;
    this.#start = this.#end;
    const progress = this.#progress({ total: this.#expectedPages, round: live ? 0 : undefined, live });
    // A stopped guest waits for memory to be copied, not for the disk.
    const writer = this.#writer(progress, deferred, live ? undefined : this.#mayWait);
    const { segment, end } = await writer.run(async () => {
      await forEachPage(types, this.#signal, (pfn, type) => {
        if (!hasPageData(type)) {
          this.#bare.set(pfn, type);
          return undefined;
        }
        if (type !== PAGE_TYPE.notab) this.#typed.set(pfn, type);
        return writer.add(pfn, type) ? writer.flush() : undefined;
      });
    });
    this.#segments.push(segment);
    this.#end = end;
    this.#zeroPages = writer.zero;
    // Behind what is still to be written.
    this.#waiting = !live;
    return progress.copied;
  }

  /**
   * Copies the pages in `dirty` again, to their places. Afterwards only the bits of those are set that could not be
   * mapped, since the guest has given them away.
   * @param round its number, for the progress
   * @returns how many of them it has taken care of
   */
  async copyDirty(dirty: Bitmap, round: number): Promise<number> {
    const total = dirty.count();
    const progress = this.#progress({ total, round, live: true });
    const buffer = new Uint8Array(this.#guest.maxBatch * PAGE_SIZE);
    const late = new Map<number, number>();
    for (const pfns of this.#batches(dirty, { filled: true })) {
      const placed = await this.#sort(pfns, dirty, late);
      const { copies, unmapped } = await this.#read(placed, buffer);
      for (const pfn of unmapped) dirty.set(pfn);
      for (const { bytes, position } of runs(copies)) await this.#output.writeAt(bytes, position);
      progress.add(placed.pfns.length - unmapped.length);
    }
    await this.#addLate(late, progress, dirty);
    return total - dirty.count();
  }

  /**
   * How long `copyLast` would take for so many pages, in milliseconds, by what `copyDirty` took; undefined before that, and
   * where there is no room for them in memory.
   */
  lastCopyMs(pages: number): number | undefined {
    const { pages: known, ms } = this.#reading;
    return known === 0 || pages * PAGE_SIZE > this.#later.limit ? undefined : (pages / known) * ms;
  }

  /** Makes room in memory for about so many pages, so that `copyLast` need not: the guest should still run. */
  readyToKeep(pages: number): void {
    this.#later.prepare(pages * PAGE_SIZE);
  }

  /**
   * Copies the pages in `dirty` of a suspended guest. They wait in memory for `writeKept`; only where the host has no
   * memory for them are they written at once.
   * @param round its number, for the progress
   * @returns how many there were
   * @throws {DomainError} If a page cannot be mapped
   */
  async copyLast(dirty: Bitmap, round: number): Promise<number> {
    this.#waiting = true;
    const progress = this.#progress({ total: dirty.count(), round, live: false });
    const late = new Map<number, number>();
    let buffer = NO_PAGES;
    for (const pfns of this.#batches(dirty, { filled: false })) {
      const placed = await this.#sort(pfns, dirty, late);
      const { length } = placed.pfns;
      const room = this.#later.take(length * PAGE_SIZE);
      if (room === undefined && buffer.length === 0) {
        buffer = new Uint8Array(this.#guest.maxBatch * PAGE_SIZE);
      }
      const { copies, unmapped } = await this.#read(placed, room ?? buffer);
      if (unmapped.length > 0) throw unmappableError(unmapped);
      for (const { bytes, position } of runs(copies)) {
        if (room === undefined) await this.#output.writeAt(bytes, position);
        else this.#later.add(bytes, position);
      }
      if (room === undefined) this.#writtenStopped += length;
      progress.add(length);
    }
    await this.#addLast(late, progress);
    return progress.copied;
  }

  /** Ends the file with the entries without data; those of a live snapshot wait in memory, too. */
  async finish(): Promise<MemoryOutcome> {
    const gone = await this.#renameGone();
    for (const record of encodeBare(this.#bare)) {
      await this.#put(record, this.#end);
      this.#end += record.length;
    }
    const pages = this.#segments.reduce((sum, segment) => sum + segment.count, 0) - gone;
    let populated = pages;
    for (const [pfn, type] of this.#bare) {
      if (type === PAGE_TYPE.xalloc && this.#placeOf(pfn) === undefined) populated++;
    }
    return {
      pages,
      populated,
      zeroPages: this.#zeroPages,
      writtenStopped: this.#writtenStopped,
      start: this.#start,
      end: this.#end,
      segments: this.#segments,
    };
  }

  /** Writes what waits in memory since `copyLast`, and the records that allocate the pages. */
  async writeKept(): Promise<void> {
    this.#waiting = false;
    await this.#output.written();
    await this.#later.writeTo(this.#output, this.#signal);
    await this.#writeAllocation();
  }

  /** Allocates what a restore gives the guest by the records that follow, and nothing else. */
  async #writeAllocation(): Promise<void> {
    const allocation = this.#allocation;
    if (allocation === undefined) return;
    this.#allocation = undefined;
    // It is there already.
    if (this.#adopted > 0 && this.#adopted === this.#segments.length && this.#gone.size === 0) return;
    const pfns = new Bitmap(this.#guest.p2mSize);
    for (const segment of this.#segments) segment.addTo(pfns);
    for (const pfn of this.#gone) pfns.clear(pfn);
    for (const { bytes, offset } of allocation.records(allocatedPages(pfns))) {
      throwIfAborted(this.#signal);
      await this.#output.writeAt(bytes, offset);
    }
  }

  /** The set pfns in batches, ascending; or in the order of the file, with what fills small gaps there. */
  *#batches(dirty: Bitmap, { filled }: { readonly filled: boolean }): Generator<Uint32Array> {
    const { maxBatch } = this.#guest;
    const window = new Uint32Array(filled ? FILLED_TOGETHER : maxBatch);
    let count = 0;
    const batches = function* (this: FileSaver): Generator<Uint32Array> {
      const pfns = window.slice(0, count);
      count = 0;
      const all = filled ? fillGaps(pfns, (pfn) => this.#offsetOf(pfn)) : pfns;
      for (let from = 0; from < all.length; from += maxBatch) yield all.subarray(from, from + maxBatch);
    };
    for (const pfn of dirty.indices()) {
      window[count++] = pfn;
      if (count === window.length) yield* batches.call(this);
    }
    yield* batches.call(this);
  }

  /**
   * Takes note of the pages' types.
   * @param dirty its bits of these pages are cleared
   * @param late gets those that are dirty and have no place yet
   * @returns those that have data and a place
   */
  async #sort(pfns: Uint32Array, dirty: Bitmap, late: Map<number, number>): Promise<PlacedPages> {
    throwIfAborted(this.#signal);
    const types = await this.#guest.pageTypes(pfns);
    const known = new Uint32Array(pfns.length);
    const offsets = new Float64Array(pfns.length);
    let count = 0;
    for (let i = 0; i < pfns.length; i++) {
      const pfn = pfns[i] ?? 0;
      const type = types[i] ?? PAGE_TYPE.xtab;
      const place = this.#placeOf(pfn);
      if (place === undefined && !dirty.has(pfn)) continue;
      dirty.clear(pfn);
      if (hasPageData(type)) {
        this.#bare.delete(pfn);
        if (place === undefined) {
          if (type !== PAGE_TYPE.notab) this.#typed.set(pfn, type);
          late.set(pfn, type);
          continue;
        }
        if (type !== (this.#typed.get(pfn) ?? PAGE_TYPE.notab)) await this.#retype(pfn, type, place);
        known[count] = pfn;
        offsets[count++] = place.segment.dataOffset(place.slot);
      } else if (type !== PAGE_TYPE.xtab || place !== undefined) {
        this.#bare.set(pfn, type);
      }
    }
    return { pfns: known.subarray(0, count), offsets: offsets.subarray(0, count) };
  }

  /** Copies pages into `buffer`. */
  async #read(
    { pfns, offsets }: PlacedPages,
    buffer: Uint8Array,
  ): Promise<{ copies: Copies; unmapped: readonly number[] }> {
    const bytes = buffer.subarray(0, pfns.length * PAGE_SIZE);
    const start = performance.now();
    const kinds = pfns.length === 0 ? NO_PAGES : await this.#guest.readPages(pfns, bytes);
    this.#reading.pages += pfns.length;
    this.#reading.ms += performance.now() - start;
    const unmapped: number[] = [];
    for (let i = 0; i < kinds.length; i++) {
      if (kinds[i] === PAGE_KIND.data) continue;
      unmapped.push(pfns[i] ?? 0);
      offsets[i] = NOWHERE;
    }
    return { copies: { bytes, offsets }, unmapped };
  }

  /**
   * Takes the names of pages that the guest has given away out of the records' heads. A restore gives the guest a page for
   * each entry with data, also where a later entry says that there is none (tools/libs/guest/xg_sr_restore.c:
   * populate_pfns). The data cannot be taken out of the record, so its entry names another page, which is written once more
   * behind all others: the last entry counts.
   * @returns how many they were
   */
  async #renameGone(): Promise<number> {
    const words: number[] = [];
    const gone: number[] = [];
    for (const [pfn, type] of this.#bare) {
      const place = type === PAGE_TYPE.xalloc ? undefined : this.#placeOf(pfn);
      if (place === undefined) continue;
      gone.push(pfn);
      words.push(place.segment.wordOffset(place.slot));
    }
    const other = gone.length === 0 ? undefined : this.#anyPage();
    if (other === undefined) return 0;
    const content = new Uint8Array(PAGE_SIZE);
    const [kind] = await this.#guest.readPages(Uint32Array.of(other), content);
    if (kind !== PAGE_KIND.data) throw unmappableError([other]);
    words.sort((a, b) => a - b);
    for (let from = 0; from < words.length; ) {
      const offset = words[from] ?? 0;
      let to = from + 1;
      while (words[to] === offset + (to - from) * WORD) to++;
      await this.#put(PfnWords.of(new Uint32Array(to - from).fill(other)).bytes, offset);
      from = to;
    }
    const one = new Map([[other, PAGE_TYPE.notab]]);
    const { records, end } = layOut(one, this.#guest.p2mSize, this.#end, this.#tuning.batchPages);
    for (const { head, offset } of records) {
      await this.#put(head, offset);
      await this.#put(content, offset + head.length);
    }
    this.#end = end;
    for (const pfn of gone) {
      this.#gone.add(pfn);
      if (this.#bare.get(pfn) === PAGE_TYPE.xtab) this.#bare.delete(pfn);
    }
    return gone.length;
  }

  /** A page that the guest has, and that goes into the file as it is. */
  #anyPage(): number | undefined {
    for (let pfn = 0; pfn < this.#guest.p2mSize; pfn++) {
      if (this.#bare.has(pfn) || this.#typed.has(pfn)) continue;
      if (this.#placeOf(pfn) !== undefined) return pfn;
    }
    return undefined;
  }

  /** Writes a few bytes, now or when the guest runs again. */
  async #put(bytes: Uint8Array, position: number): Promise<void> {
    if (this.#waiting) this.#later.add(bytes, position);
    else await this.#output.writeAt(bytes, position);
  }

  /** Gives pages their places that have come into being since the others got theirs. */
  async #addLate(
    late: ReadonlyMap<number, number>,
    progress: CopyProgress,
    deferred: Bitmap | undefined,
  ): Promise<void> {
    if (late.size === 0) return;
    const writer = this.#writer(progress, deferred);
    const { segment, end } = await writer.run(async () => {
      for (const [pfn, type] of late) if (writer.add(pfn, type)) await writer.flush();
    });
    this.#segments.push(segment);
    this.#end = end;
  }

  /** The same of a suspended guest: its pages wait in memory, as far as there is room, with the records' heads. */
  async #addLast(late: ReadonlyMap<number, number>, progress: CopyProgress): Promise<void> {
    if (late.size === 0) return;
    const { segment, records, end } = layOut(late, this.#guest.p2mSize, this.#end, this.#tuning.batchPages);
    const rooms: Uint8Array[] = [];
    for (const { pfns } of records) {
      const room = this.#later.take(pfns.length * PAGE_SIZE);
      if (room === undefined) break;
      rooms.push(room);
    }
    if (rooms.length < records.length) {
      this.#writtenStopped += late.size;
      await this.#addLate(late, progress, undefined);
      return;
    }
    const { maxBatch } = this.#guest;
    for (const [i, { pfns, head, offset }] of records.entries()) {
      const bytes = rooms[i] ?? NO_PAGES;
      for (let from = 0; from < pfns.length; from += maxBatch) {
        throwIfAborted(this.#signal);
        const part = pfns.subarray(from, from + maxBatch);
        const kinds = await this.#guest.readPages(part, bytes.subarray(from * PAGE_SIZE));
        const unmapped = part.filter((_, at) => kinds[at] !== PAGE_KIND.data);
        if (unmapped.length > 0) throw unmappableError([...unmapped]);
        progress.add(part.length);
      }
      this.#later.add(head, offset);
      this.#later.add(bytes, offset + head.length);
    }
    this.#segments.push(segment);
    this.#end = end;
  }

  #placeOf(pfn: number): { segment: Segment; slot: number } | undefined {
    for (const segment of this.#segments) {
      const slot = segment.slotOf(pfn);
      if (slot >= 0) return { segment, slot };
    }
    return undefined;
  }

  #offsetOf(pfn: number): number {
    const place = this.#placeOf(pfn);
    return place === undefined ? NOWHERE : place.segment.dataOffset(place.slot);
  }

  /** A page that has become a page table, or ceased to be one, changes its word in the record's head. */
  async #retype(pfn: number, type: number, { segment, slot }: { segment: Segment; slot: number }) {
    await this.#put(PfnWords.of([pfn], [type]).bytes, segment.wordOffset(slot));
    if (type === PAGE_TYPE.notab) this.#typed.delete(pfn);
    else this.#typed.set(pfn, type);
  }

  #writer(progress: CopyProgress, deferred: Bitmap | undefined, mayWait?: number): SegmentWriter {
    const options = { deferred, signal: this.#signal, tuning: this.#tuning, mayWait };
    return new SegmentWriter(this.#guest, this.#output, this.#end, progress, options);
  }

  #progress(pass: ConstructorParameters<typeof CopyProgress>[1]): CopyProgress {
    return new CopyProgress(this.#reporter, pass);
  }
}

/** Pages that are neighbours in the file, together. */
function* runs({ bytes, offsets }: Copies): Generator<{ bytes: Uint8Array; position: number }> {
  let from = 0;
  while (from < offsets.length) {
    const position = offsets[from] ?? NOWHERE;
    let to = from + 1;
    if (position !== NOWHERE) {
      while (to < offsets.length && offsets[to] === position + (to - from) * PAGE_SIZE) to++;
      yield { bytes: bytes.subarray(from * PAGE_SIZE, to * PAGE_SIZE), position };
    }
    from = to;
  }
}
