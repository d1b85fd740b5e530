import type { Bitmap } from '../core/bitmap.ts';
import { PAGE_SIZE } from '../core/brand.ts';
import { DomainError, throwIfAborted } from '../core/errors.ts';
import { type Reporter, silentReporter } from '../core/reporter.ts';
import { encodeAmendment, hasPageData, PAGE_TYPE, PfnWords, SlotLayout } from '../savefmt/index.ts';
import { Lanes } from './lanes.ts';
import { PageSet } from './page-set.ts';
import type { Guest } from './ports.ts';
import type { CallOptions } from './types.ts';

/** pfns whose types are asked for in one go; the signal is looked at in between. */
const TYPE_CHUNK = 16 * 1024;
/** Batches under way at once: as many as libuv's pool has threads unless told otherwise. */
const IN_FLIGHT = 4;
/** So many clean pages between two dirty ones are copied again with them: one longer write takes less time than two. */
const SMALL_GAP = 2;
const PROGRESS_INTERVAL_MS = 100;
/** Entries without data in one record; 8 MiB of them. */
const BARE_PER_RECORD = 1024 * 1024;

const NO_PAGES = new Uint8Array(0);

/** A file that is written at offsets. */
export interface PositionalOutput {
  readonly fd: number;
  /** @throws OutputError */
  writeAt(bytes: Uint8Array, position: number): Promise<void>;
  /** Called now and then while the guest runs: the disk may begin with what has been written so far. */
  beginSync(): void;
}

export interface MemoryOutcome {
  /** Pages with data. */
  readonly pages: number;
  /** How many of them were all zeros when they were first copied, and were left as holes. */
  readonly zeroPages: number;
  /** Offset of the first octet behind the last PAGE_DATA record. */
  readonly end: number;
}

export interface MemoryOptions extends CallOptions {
  /** Pages that the guest has, about; for the progress. */
  readonly expectedPages: number;
}

/** Pages with their places in the file. */
interface Segment {
  readonly pages: PageSet;
  readonly layout: SlotLayout;
}

/**
 * Writes a guest's memory into PAGE_DATA records in which each page has one place, however often it is written.
 *
 * `copyAll` comes first. While the guest runs, its pages change again, or come and go: `copyDirty` takes care of those
 * that the hypervisor says were written. The file is right when the last `copyDirty` has seen all pages written before
 * the guest was suspended; a suspended guest needs none. `finish` ends the records.
 *
 * A page that comes into being after `copyAll` gets a place in records behind the others. One that vanishes keeps its
 * place, and an entry of type XTAB at the end says so; as with libxc's own stream, a restore still populates it.
 *
 * Methods run one at a time. When one rejects, nothing writes to the file any more. They throw OutputError,
 * InterruptedError, and what `Guest.pageTypes` and `Guest.copyPages` throw.
 */
export class MemorySaver {
  readonly #guest: Guest;
  readonly #output: PositionalOutput;
  readonly #signal: AbortSignal | undefined;
  readonly #reporter: Reporter;
  readonly #expectedPages: number;
  readonly #segments: Segment[] = [];
  /** Types of pages that have a place and are not NOTAB. */
  readonly #typed = new Map<number, number>();
  /** Pages that a restore must know of and that have no data: BROKEN, XALLOC, and XTAB where data stands before. */
  readonly #bare = new Map<number, number>();
  #end: number;
  #zeroPages = 0;

  /**
   * @param firstRecordOffset a multiple of 4096, where the first PAGE_DATA record goes
   * @throws DomainError
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
    this.#end = firstRecordOffset;
    this.#signal = options.signal;
    this.#reporter = options.reporter ?? silentReporter;
    this.#expectedPages = options.expectedPages;
  }

  /**
   * Finds the populated pages, gives each its place, and copies it; a page of zeros becomes a hole. Pages of type
   * XTAB have no entry: nothing is there.
   * @param deferred where pages are noted that could not be mapped, since the guest gave them away meanwhile; without
   * it that is an error, as it is when the guest is suspended
   * @returns pages copied
   */
  async copyAll(deferred?: Bitmap): Promise<number> {
    const { p2mSize } = this.#guest;
    const round = deferred === undefined ? undefined : 0;
    const copier = this.#copier({ round, total: this.#expectedPages, sparse: true, deferred });
    const records = new RecordWriter(this.#output, this.#end, p2mSize, copier, deferred !== undefined);
    await copier.run(async () => {
      let next = this.#typesFrom(0);
      for (let from = 0; from < p2mSize; from += TYPE_CHUNK) {
        throwIfAborted(this.#signal);
        const types = await next;
        next = this.#typesFrom(from + TYPE_CHUNK);
        // It is awaited in the next turn, unless there is none.
        next.catch(() => {});
        for (let i = 0; i < types.length; i++) {
          const type = types[i] ?? PAGE_TYPE.xtab;
          if (type === PAGE_TYPE.xtab) continue;
          if (!hasPageData(type)) {
            this.#bare.set(from + i, type);
            continue;
          }
          if (type !== PAGE_TYPE.notab) this.#typed.set(from + i, type);
          if (records.add(from + i, type)) await records.flush();
        }
      }
      await next;
      this.#segments.push(await records.end());
    });
    this.#end = records.layout.end;
    this.#zeroPages = copier.zero;
    return copier.copied;
  }

  /**
   * Copies the pages in `dirty` again, to their places. Afterwards only the bits of those are set that could not be
   * mapped, since the guest gave them away meanwhile.
   * @param round its number, for the progress
   * @param last the guest is suspended: a page that cannot be mapped is an error
   * @returns how many of them it has taken care of
   */
  async copyDirty(dirty: Bitmap, round: number, last: boolean): Promise<number> {
    const total = dirty.count();
    const copier = this.#copier({ round, total, sparse: false, deferred: last ? undefined : dirty });
    const late = new Map<number, number>();
    await copier.run(async () => {
      let chunk = new Uint32Array(this.#guest.maxBatch);
      let count = 0;
      const flush = async (): Promise<void> => {
        const pfns = chunk.subarray(0, count);
        chunk = new Uint32Array(this.#guest.maxBatch);
        count = 0;
        await this.#copyKnown(pfns, copier, dirty, late);
      };
      let before = Number.NEGATIVE_INFINITY;
      for (const pfn of dirty.indices()) {
        for (let at = pfn - before - 1 <= SMALL_GAP ? before + 1 : pfn; at <= pfn; at++) {
          chunk[count++] = at;
          if (count === chunk.length) await flush();
        }
        before = pfn;
      }
      if (count > 0) await flush();
      if (late.size === 0) return;
      const records = new RecordWriter(this.#output, this.#end, this.#guest.p2mSize, copier, !last);
      for (const [pfn, type] of late) if (records.add(pfn, type)) await records.flush();
      this.#segments.push(await records.end());
      this.#end = records.layout.end;
    });
    return total - dirty.count();
  }

  /** Writes what stands behind the pages: the entries without data. */
  async finish(): Promise<MemoryOutcome> {
    const pfns = Uint32Array.from(this.#bare.keys()).sort();
    for (let from = 0; from < pfns.length; from += BARE_PER_RECORD) {
      const part = pfns.subarray(from, from + BARE_PER_RECORD);
      const types = Uint8Array.from(part, (pfn) => this.#bare.get(pfn) ?? PAGE_TYPE.xtab);
      const record = encodeAmendment(part, types, NO_PAGES);
      await this.#output.writeAt(record, this.#end);
      this.#end += record.length;
    }
    const pages = this.#segments.reduce((sum, segment) => sum + segment.pages.count, 0);
    return { pages, zeroPages: this.#zeroPages, end: this.#end };
  }

  #typesFrom(from: number): Promise<Uint8Array> {
    const count = Math.max(0, Math.min(TYPE_CHUNK, this.#guest.p2mSize - from));
    const pfns = new Uint32Array(count);
    for (let i = 0; i < count; i++) pfns[i] = from + i;
    return this.#guest.pageTypes(pfns);
  }

  /** Copies those of the pages that have a place; of the others, those that are dirty go to `late`. */
  async #copyKnown(
    pfns: Uint32Array,
    copier: Copier,
    dirty: Bitmap,
    late: Map<number, number>,
  ): Promise<void> {
    throwIfAborted(this.#signal);
    const types = await this.#guest.pageTypes(pfns);
    const known = new Uint32Array(pfns.length);
    const positions = new Float64Array(pfns.length);
    let count = 0;
    for (const [i, pfn] of pfns.entries()) {
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
        await this.#retype(pfn, type, place);
        known[count] = pfn;
        positions[count++] = place.layout.slotOffset(place.index);
      } else if (type !== PAGE_TYPE.xtab || place !== undefined) {
        this.#bare.set(pfn, type);
      }
    }
    if (count > 0) await copier.copy(known.subarray(0, count), positions.subarray(0, count));
  }

  #placeOf(pfn: number): { layout: SlotLayout; index: number } | undefined {
    for (const { pages, layout } of this.#segments) {
      const index = pages.indexOf(pfn);
      if (index >= 0) return { layout, index };
    }
    return undefined;
  }

  /** A page that has become a page table, or ceased to be one, changes its word in the record's head. */
  async #retype(pfn: number, type: number, { layout, index }: { layout: SlotLayout; index: number }) {
    if (type === (this.#typed.get(pfn) ?? PAGE_TYPE.notab)) return;
    await this.#output.writeAt(PfnWords.of([pfn], [type]).bytes, layout.wordOffset(index));
    if (type === PAGE_TYPE.notab) this.#typed.delete(pfn);
    else this.#typed.set(pfn, type);
  }

  #copier(pass: Omit<CopierOptions, 'guest' | 'fd' | 'reporter' | 'signal'>): Copier {
    return new Copier({
      ...pass,
      guest: this.#guest,
      fd: this.#output.fd,
      reporter: this.#reporter,
      signal: this.#signal,
    });
  }
}

interface CopierOptions {
  readonly guest: Guest;
  readonly fd: number;
  readonly reporter: Reporter;
  readonly signal: AbortSignal | undefined;
  /** Of a running guest, from 0. */
  readonly round: number | undefined;
  /** Pages to copy, about. */
  readonly total: number;
  readonly sparse: boolean;
  readonly deferred: Bitmap | undefined;
}

/** One pass over pages, several batches of them under way at once. */
class Copier {
  copied = 0;
  zero = 0;
  readonly #options: CopierOptions;
  readonly #lanes = new Lanes(IN_FLIGHT);
  readonly #start = performance.now();
  #told = this.#start;

  constructor(options: CopierOptions) {
    this.#options = options;
  }

  /** Runs `body`, which starts copies, and waits until all have ended, whatever happens. */
  async run(body: () => Promise<void>): Promise<void> {
    let failure: unknown;
    try {
      await body();
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      await this.#lanes.end().catch((error: unknown) => {
        if (failure === undefined) throw error;
      });
    }
    this.#tell();
  }

  /** Copies pages that stand back to back in the file. */
  async copyRun(pfns: Uint32Array, position: number): Promise<void> {
    const { maxBatch } = this.#options.guest;
    for (let from = 0; from < pfns.length; from += maxBatch) {
      const batch = pfns.subarray(from, from + maxBatch);
      const positions = new Float64Array(batch.length);
      for (let i = 0; i < batch.length; i++) positions[i] = position + (from + i) * PAGE_SIZE;
      await this.copy(batch, positions);
    }
  }

  /** Starts copying a batch when there is room for it. */
  async copy(pfns: Uint32Array, positions: Float64Array): Promise<void> {
    throwIfAborted(this.#options.signal);
    await this.#lanes.start(() => this.#copy(pfns, positions));
  }

  async #copy(pfns: Uint32Array, positions: Float64Array): Promise<void> {
    const { guest, fd, sparse, deferred } = this.#options;
    const { zero, unmapped } = await guest.copyPages(fd, { pfns, positions }, { sparse });
    if (unmapped.length > 0 && deferred === undefined) {
      throw new DomainError(
        'PAGE_UNMAPPABLE',
        `page ${unmapped[0]} of the suspended guest cannot be mapped`,
        {
          data: { pfns: unmapped.slice(0, 10), count: unmapped.length },
          hint: 'does another program change the memory of this guest?',
        },
      );
    }
    for (const pfn of unmapped) deferred?.set(pfn);
    this.zero += zero;
    this.copied += pfns.length - unmapped.length;
    if (performance.now() - this.#told >= PROGRESS_INTERVAL_MS) this.#tell();
  }

  #tell(): void {
    const now = performance.now();
    this.#told = now;
    const { reporter, total, round } = this.#options;
    reporter.progress({
      phase: round === undefined || this.#options.deferred === undefined ? 'memory' : 'precopy',
      done: this.copied,
      total: Math.max(total, this.copied),
      unit: 'pages',
      rate: (this.copied * PAGE_SIZE * 1000) / Math.max(1, now - this.#start),
      ...(round === undefined ? {} : { round }),
    });
  }
}

/** Lays pages out in PAGE_DATA records as they come, and has them copied. */
class RecordWriter {
  /** Once `end` is through, the layout of the pages; until then, of as many as there might be. */
  layout: SlotLayout;
  readonly #output: PositionalOutput;
  readonly #copier: Copier;
  readonly #live: boolean;
  readonly #pages: PageSet;
  #written = 0;
  #pfns: Uint32Array;
  #types: Uint8Array;
  #count = 0;

  constructor(output: PositionalOutput, start: number, p2mSize: number, copier: Copier, live: boolean) {
    this.#output = output;
    this.#live = live;
    this.#copier = copier;
    this.#pages = new PageSet(p2mSize);
    this.layout = SlotLayout.create({ firstRecordOffset: start, count: p2mSize });
    this.#pfns = new Uint32Array(this.layout.perRecord);
    this.#types = new Uint8Array(this.layout.perRecord);
  }

  /** @returns whether the record is full, and `flush` has to come */
  add(pfn: number, type: number): boolean {
    this.#pages.add(pfn);
    this.#pfns[this.#count] = pfn;
    this.#types[this.#count++] = type;
    return this.#count === this.#pfns.length;
  }

  async flush(): Promise<void> {
    const { offset, dataOffset } = this.layout.record(this.#written);
    const pfns = this.#pfns.subarray(0, this.#count);
    const head = this.layout.encodeHead(this.#written, pfns, this.#types.subarray(0, this.#count));
    await this.#output.writeAt(head, offset);
    await this.#copier.copyRun(pfns, dataOffset);
    if (this.#live) this.#output.beginSync();
    this.#written++;
    this.#pfns = new Uint32Array(this.layout.perRecord);
    this.#count = 0;
  }

  async end(): Promise<Segment> {
    const { start } = this.layout;
    this.layout = SlotLayout.create({ firstRecordOffset: start, count: this.#pages.count });
    if (this.#count > 0) await this.flush();
    return { pages: this.#pages, layout: this.layout };
  }
}
