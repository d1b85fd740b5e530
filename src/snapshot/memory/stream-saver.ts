/** Writes the memory of a guest to a stream. */
import { Bitmap } from '../../core/bitmap.ts';
import { PAGE_SIZE } from '../../core/brand.ts';
import { throwIfAborted } from '../../core/errors.ts';
import { PAGE_KIND } from '../../core/page-kind.ts';
import { type Reporter, silentReporter } from '../../core/reporter.ts';
import { spareMemory } from '../../core/spare-memory.ts';
import {
  encodeAmendment,
  encodePageDataHead,
  hasPageData,
  PAGE_TYPE,
  PfnWords,
  SUPERPAGE_PAGES,
} from '../../savefmt/index.ts';
import type { MemoryOutput } from '../output/file.ts';
import type { Guest } from '../ports.ts';
import { forEachPage, type PageTypes } from './each-page.ts';
import { encodeBare, type MemoryOptions, type MemoryOutcome, type PageSaver } from './file-saver.ts';
import { LaterWrites } from './later-writes.ts';
import { CopyProgress } from './progress.ts';
import { unmappableError } from './segment.ts';

/** Pages that are being collected for a record. */
interface Batch {
  readonly pfns: Uint32Array;
  readonly types: Uint8Array;
  count: number;
}

/**
 * Writes a guest's memory as libxc does, for an output that can only be appended to: a page that is copied again is
 * appended again, and the later one wins. Pages of zeros are written like the others. For all else see `FileSaver`.
 *
 * A restore gives an HVM or PVH guest a 2 MiB page where 512 aligned pfns ascend in one record (see `AllocationLayout`). So a record
 * of its first pages ends where such a region ends; regions that come into being later are allocated before they are sent.
 *
 * The last pages of a live snapshot wait in memory until the guest runs again: a reader that is slow must not keep it stopped.
 */
export class StreamSaver implements PageSaver {
  readonly #guest: Guest;
  readonly #output: Pick<MemoryOutput, 'writeAt'>;
  readonly #signal: AbortSignal | undefined;
  readonly #reporter: Reporter;
  readonly #expectedPages: number;
  /** Pages without data that a restore must know of. */
  readonly #bare = new Map<number, number>();
  /** What the stream gets when the guest runs again. */
  readonly #later: LaterWrites;
  /** From `copyLast` on nothing goes to the stream while the guest is stopped, unless memory runs short. */
  #waiting = false;
  /** Whether memory ran short for that. */
  #isShort = false;
  /** How many pages had been sent before `copyLast`. */
  #pagesBefore = 0;
  /** What copying pages into memory has taken so far. */
  readonly #reading = { pages: 0, ms: 0 };
  /** Room for the pages of two records: one is filled while the other is written. */
  readonly #buffers: readonly [Uint8Array, Uint8Array];
  #records = 0;
  #writing: Promise<void> = Promise.resolve();
  readonly #start: number;
  #end: number;
  #pages = 0;
  /** Pages that have been in a record. */
  #sent: Bitmap;
  /** Pages between two pfns where a record of first pages has to end; infinite for a PV guest. */
  readonly #span: number;

  constructor(guest: Guest, output: Pick<MemoryOutput, 'writeAt'>, start: number, options: MemoryOptions) {
    this.#guest = guest;
    this.#output = output;
    this.#start = start;
    this.#end = start;
    this.#signal = options.signal;
    this.#reporter = options.reporter ?? silentReporter;
    this.#expectedPages = options.expectedPages;
    this.#later = new LaterWrites(options.spareMemory ?? spareMemory);
    this.#sent = new Bitmap(0);
    const room = (): Uint8Array => new Uint8Array(guest.maxBatch * PAGE_SIZE);
    this.#buffers = [room(), room()];
    this.#span =
      guest.streamType === 'hvm'
        ? SUPERPAGE_PAGES * Math.max(1, Math.floor(guest.maxBatch / SUPERPAGE_PAGES))
        : Number.POSITIVE_INFINITY;
  }

  async copyAll(deferred?: Bitmap, types: PageTypes = this.#guest): Promise<number> {
    const live = deferred !== undefined;
    // It may have grown until the guest was suspended.
    this.#sent = new Bitmap(this.#guest.p2mSize);
    const round = live ? 0 : undefined;
    const progress = new CopyProgress(this.#reporter, { total: this.#expectedPages, round, live });
    let batch = this.#batch();
    await this.#pass(async () => {
      await forEachPage(types, this.#signal, (pfn, type) => {
        if (!hasPageData(type)) {
          this.#bare.set(pfn, type);
          return undefined;
        }
        // A region of `span` pages is never longer than a batch.
        const last = batch.pfns[batch.count - 1] ?? pfn;
        const ended = Math.floor(last / this.#span) !== Math.floor(pfn / this.#span);
        const before = ended ? batch : undefined;
        if (ended) batch = this.#batch();
        batch.pfns[batch.count] = pfn;
        batch.types[batch.count++] = type;
        if (before !== undefined) return this.#send(before, deferred, progress);
        if (batch.count < batch.pfns.length) return undefined;
        const full = batch;
        batch = this.#batch();
        return this.#send(full, deferred, progress);
      });
      if (batch.count > 0) await this.#send(batch, deferred, progress);
    });
    return progress.copied;
  }

  async copyDirty(dirty: Bitmap, round: number): Promise<number> {
    const total = dirty.count();
    await this.#allocateNew(dirty);
    await this.#copySet(dirty, dirty, new CopyProgress(this.#reporter, { total, round, live: true }));
    return total - dirty.count();
  }

  async copyLast(dirty: Bitmap, round: number): Promise<number> {
    this.#waiting = true;
    this.#pagesBefore = this.#pages;
    const progress = new CopyProgress(this.#reporter, { total: dirty.count(), round, live: false });
    await this.#copySet(dirty, undefined, progress);
    return progress.copied;
  }

  /** As that of `FileSaver`. Where there is no room in memory, how fast the stream is, the rounds tell. */
  lastCopyMs(pages: number): number | undefined {
    const { pages: known, ms } = this.#reading;
    return known === 0 || pages * PAGE_SIZE > this.#later.limit ? undefined : (pages / known) * ms;
  }

  readyToKeep(pages: number): void {
    this.#later.prepare(pages * PAGE_SIZE);
  }

  async writeKept(): Promise<void> {
    this.#waiting = false;
    await this.#later.writeTo(this.#output, this.#signal);
  }

  async finish(): Promise<MemoryOutcome> {
    for (const record of encodeBare(this.#bare)) await this.#append(record);
    let populated = this.#sent.count();
    for (const [pfn, type] of this.#bare) {
      if (type === PAGE_TYPE.xalloc && !this.#sent.has(pfn)) populated++;
    }
    return {
      pages: this.#pages,
      populated,
      zeroPages: 0,
      segments: [],
      writtenStopped: this.#isShort ? this.#pages - this.#pagesBefore : 0,
      start: this.#start,
      end: this.#end,
    };
  }

  /**
   * Allocates the regions of 2 MiB of which nothing was sent so far and that are to be sent now. Only while the guest runs: it
   * is not worth a moment of a stopped guest.
   */
  async #allocateNew(dirty: Bitmap): Promise<void> {
    if (!Number.isFinite(this.#span)) return;
    const { p2mSize } = this.#guest;
    for (let first = 0; first + SUPERPAGE_PAGES <= p2mSize; first += SUPERPAGE_PAGES) {
      const end = first + SUPERPAGE_PAGES;
      if (!dirty.has(first) || this.#sent.has(first)) continue;
      if (dirty.count(first, end) < SUPERPAGE_PAGES || this.#sent.count(first, end) > 0) continue;
      throwIfAborted(this.#signal);
      const types = await this.#guest.pageTypesFrom(first, SUPERPAGE_PAGES);
      if (!types.every(hasPageData)) continue;
      const pfns = Uint32Array.from(types, (_, at) => first + at);
      const record = encodeAmendment(pfns, types.fill(PAGE_TYPE.xalloc), new Uint8Array(0));
      await this.#append(record);
      for (const pfn of pfns) this.#sent.set(pfn);
    }
  }

  #batch(): Batch {
    const { maxBatch } = this.#guest;
    return { pfns: new Uint32Array(maxBatch), types: new Uint8Array(maxBatch), count: 0 };
  }

  /** Copies the pages of a set; their bits are cleared. */
  async #copySet(dirty: Bitmap, deferred: Bitmap | undefined, progress: CopyProgress): Promise<void> {
    const { maxBatch } = this.#guest;
    const copy = async (pfns: Uint32Array): Promise<void> => {
      const types = await this.#guest.pageTypes(pfns);
      const batch = this.#batch();
      for (let i = 0; i < pfns.length; i++) {
        const pfn = pfns[i] ?? 0;
        const type = types[i] ?? PAGE_TYPE.xtab;
        dirty.clear(pfn);
        if (hasPageData(type)) {
          this.#bare.delete(pfn);
          batch.pfns[batch.count] = pfn;
          batch.types[batch.count++] = type;
        } else if (type !== PAGE_TYPE.xtab || this.#sent.has(pfn)) this.#bare.set(pfn, type);
        // A pfn that is in no record has no page. After a lost log they all count as dirty, and may be millions.
        else this.#bare.delete(pfn);
      }
      if (batch.count > 0) await this.#send(batch, deferred, progress);
    };
    await this.#pass(async () => {
      let pfns = new Uint32Array(maxBatch);
      let count = 0;
      for (const pfn of dirty.indices()) {
        pfns[count++] = pfn;
        if (count < maxBatch) continue;
        await copy(pfns);
        pfns = new Uint32Array(maxBatch);
        count = 0;
      }
      if (count > 0) await copy(pfns.subarray(0, count));
    });
  }

  /** Runs `body`, which sends records, and waits until all are written, whatever happens. */
  async #pass(body: () => Promise<void>): Promise<void> {
    try {
      await body();
    } catch (error) {
      await this.#writing.catch(() => undefined);
      throw error;
    }
    await this.#writing;
  }

  /** Reads a record's pages while the one before is being written, then has it written. */
  async #send(batch: Batch, deferred: Bitmap | undefined, progress: CopyProgress): Promise<void> {
    throwIfAborted(this.#signal);
    const buffer = await this.#room(batch.count);
    const start = performance.now();
    const kinds = await this.#guest.readPages(batch.pfns.subarray(0, batch.count), buffer);
    this.#reading.pages += batch.count;
    this.#reading.ms += performance.now() - start;
    const { pfns, types } = batch;
    const unmapped: number[] = [];
    let count = 0;
    for (let i = 0; i < kinds.length; i++) {
      const pfn = pfns[i] ?? 0;
      if (kinds[i] === PAGE_KIND.unmapped) {
        unmapped.push(pfn);
        continue;
      }
      if (count < i) buffer.copyWithin(count * PAGE_SIZE, i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
      types[count] = types[i] ?? PAGE_TYPE.notab;
      pfns[count++] = pfn;
      this.#sent.set(pfn);
    }
    if (unmapped.length > 0 && deferred === undefined) throw unmappableError(unmapped);
    for (const pfn of unmapped) deferred?.set(pfn);
    await this.#writing;
    if (count > 0) {
      const head = encodePageDataHead(PfnWords.of(pfns.subarray(0, count), types.subarray(0, count)));
      this.#writing = this.#write(head, buffer.subarray(0, count * PAGE_SIZE));
      // It is awaited before the next one.
      this.#writing.catch(() => {});
    }
    this.#pages += count;
    progress.add(count);
  }

  /** Room for the pages of a record. Where there is none to keep them in, what waits is written now: the stream has an order. */
  async #room(pages: number): Promise<Uint8Array> {
    const room = this.#waiting ? this.#later.take(pages * PAGE_SIZE) : undefined;
    if (room !== undefined) return room;
    if (this.#waiting) {
      this.#isShort = true;
      await this.writeKept();
    }
    const [even, odd] = this.#buffers;
    return this.#records++ % 2 === 0 ? even : odd;
  }

  async #write(head: Uint8Array, pages: Uint8Array): Promise<void> {
    await this.#append(head);
    await this.#append(pages);
  }

  /** Writes bytes, now or when the guest runs again. */
  async #append(bytes: Uint8Array): Promise<void> {
    if (this.#waiting) this.#later.add(bytes, this.#end);
    else await this.#output.writeAt(bytes, this.#end);
    this.#end += bytes.length;
  }
}
