/** Compares two memory files page by page. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { FileSource } from '../core/byte-source.ts';
import type { CallOptions } from '../core/call-options.ts';
import { throwIfAborted } from '../core/errors.ts';
import { silentReporter } from '../core/reporter.ts';
import { hasPageData, PAGE_STATE, PfnWords } from '../savefmt/index.ts';
import { type Inspection, type InspectOptions, type Scan, scan } from './inspect.ts';
import { PageReader } from './page-reader.ts';
import { damagedFileError, openMemoryFile } from './verify.ts';

/** Number of pfns whose offsets are held at a time: 4 GiB of the guest's memory, 8 MiB for each file. */
const WINDOW = 2 ** 20;
/** Number of pages after which the signal is checked and progress is reported. */
const STEP = 4096;
/** Approximate maximum number of cells; at least a quarter of them have pages. */
const MAX_CELLS = 4096;
/** Smallest step in which a map says where there are pages. */
const PIECE = 2 ** 15;

export type CompareOptions = Pick<CallOptions, 'reporter'> & Omit<InspectOptions, 'readPages'>;

/** Numbers of pages. */
export interface ChangeCounts {
  readonly same: number;
  /** Pages in both files whose content or type differs. */
  readonly changed: number;
  readonly onlyA: number;
  readonly onlyB: number;
}

/** A part of the guest's memory, from one pfn up to, but not including, another. */
export interface RegionChange extends ChangeCounts {
  readonly firstPfn: number;
  readonly endPfn: number;
}

/** What has changed from one save file to another. */
export interface Comparison {
  readonly a: Inspection;
  readonly b: Inspection;
  readonly total: ChangeCounts;
  /** Regions with pages, ascending: below 1 MiB, up to 16 MiB, then each twice as large as the one before. */
  readonly regions: readonly RegionChange[];
  /** Number of pages in a cell: a power of two. */
  readonly cellPages: number;
  /** Cells with pages, ascending; for a picture. */
  readonly cells: readonly RegionChange[];
}

/**
 * Compares the guest's memory in two save files, of xl or xlsnap, page by page. Reads the pages that are in
 * both files, except where both have holes. Needs 30 MiB, and a byte for each page of each file.
 * @throws {MemoryFileError} If a file cannot be opened or is damaged.
 * @throws {InterruptedError} If the signal aborted.
 */
export async function compareFiles(
  pathA: string,
  pathB: string,
  options: CompareOptions = {},
): Promise<Comparison> {
  await using a = await openMemoryFile(pathA);
  await using b = await openMemoryFile(pathB);
  const sides = [await openSide(pathA, a, options), await openSide(pathB, b, options)] as const;
  const changes = new Changes(sides);
  const pages = sides.map(({ scanned }) => scanned.inspection.memory.pages);
  const total = Math.max(...pages);
  const { reporter = silentReporter, signal } = options;
  let done = 0;
  for (const first of piecesOf(sides, WINDOW)) {
    for (const side of sides) await side.places.go(first);
    for (let at = 0; at < WINDOW; at += STEP) {
      throwIfAborted(signal);
      done += await compareStep(sides, first, at, changes);
      if (done > 0)
        reporter.progress({ phase: 'compare', done: Math.min(done, total), total, unit: 'pages' });
    }
  }
  return {
    a: sides[0].scanned.inspection,
    b: sides[1].scanned.inspection,
    ...changes.result(),
  };
}

interface Side {
  readonly scanned: Scan;
  readonly places: Places;
  readonly pages: PageReader;
}

type Sides = readonly [Side, Side];

async function openSide(path: string, source: FileSource, options: CompareOptions): Promise<Side> {
  const scanned = await scan(path, source, options);
  const { sound, findings, omitted } = scanned.inspection;
  if (!sound) throw damagedFileError(path, findings, omitted);
  return { scanned, places: new Places(source, scanned), pages: new PageReader(source) };
}

/** Returns the pieces in which either file has pages. */
function piecesOf(sides: Sides, size: number): readonly number[] {
  return [...new Set(sides.flatMap(({ scanned }) => [...scanned.map.pieces(size)]))].sort((a, b) => a - b);
}

/**
 * Compares one step.
 * @returns the number of pages that are in either file
 */
async function compareStep([a, b]: Sides, first: number, from: number, changes: Changes): Promise<number> {
  const { states: statesA, offsets: offsetsA } = a.places;
  const { states: statesB, offsets: offsetsB } = b.places;
  let pages = 0;
  for (let at = from; at < from + STEP; at++) {
    const stateA = statesA[at] ?? 0;
    const stateB = statesB[at] ?? 0;
    if (stateA === 0 && stateB === 0) continue;
    pages++;
    let kind: Kind = 'changed';
    if (stateB === 0) kind = 'onlyA';
    else if (stateA === 0) kind = 'onlyB';
    else if ((stateA & PAGE_STATE.type) === (stateB & PAGE_STATE.type)) {
      const hasData = hasPageData(stateA & PAGE_STATE.type);
      const bothHoles = (stateA & stateB & PAGE_STATE.hole) !== 0;
      if (!hasData || bothHoles) kind = 'same';
      else {
        const offsetA = (stateA & PAGE_STATE.hole) !== 0 ? -1 : (offsetsA[at] ?? -1);
        const offsetB = (stateB & PAGE_STATE.hole) !== 0 ? -1 : (offsetsB[at] ?? -1);
        let atA = offsetA < 0 ? 0 : a.pages.position(offsetA);
        let atB = offsetB < 0 ? 0 : b.pages.position(offsetB);
        if (atA < 0) atA = await a.pages.load(offsetA);
        if (atB < 0) atB = await b.pages.load(offsetB);
        const pageA = offsetA < 0 ? ZEROS : a.pages.window;
        const pageB = offsetB < 0 ? ZEROS : b.pages.window;
        if (pageA.compare(pageB, atB, atB + PAGE_SIZE, atA, atA + PAGE_SIZE) === 0) kind = 'same';
      }
    }
    changes.add(first + at, kind);
  }
  return pages;
}

const ZEROS = Buffer.alloc(PAGE_SIZE);

/** States of the pages in a window of pfns, and the offsets of their data in the file. */
class Places {
  readonly states = new Uint8Array(WINDOW);
  /** Valid for pages with data. */
  readonly offsets = new Float64Array(WINDOW);
  readonly #source: FileSource;
  readonly #scan: Scan;

  constructor(source: FileSource, scanned: Scan) {
    this.#source = source;
    this.#scan = scanned;
  }

  /** Moves the window so that it begins with `first`. */
  async go(first: number): Promise<void> {
    const { map, records } = this.#scan;
    map.copyStates(first, this.states);
    const end = first + WINDOW;
    for (const { wordsOffset, count, dataOffset, minPfn, maxPfn } of records) {
      if (maxPfn < first || minPfn >= end) continue;
      const bytes = new Uint8Array(8 * count);
      await this.#source.readAt(bytes, wordsOffset);
      const words = new PfnWords(bytes);
      let offset = dataOffset;
      // Later ones win: the records are in the file's order.
      for (let i = 0; i < count; i++) {
        if (!hasPageData(words.type(i))) continue;
        const pfn = words.pfn(i);
        if (pfn >= first && pfn < end) this.offsets[pfn - first] = offset;
        offset += PAGE_SIZE;
      }
    }
  }
}

type Kind = keyof ChangeCounts;
type Counts = { [K in Kind]: number };

function noCounts(): Counts {
  return { same: 0, changed: 0, onlyA: 0, onlyB: 0 };
}

/** Adds up changes by region and by cell. */
class Changes {
  readonly #cellPages: number;
  readonly #total = noCounts();
  readonly #regions = new Map<number, Counts>();
  readonly #cells = new Map<number, Counts>();

  constructor(sides: Sides) {
    const room = piecesOf(sides, PIECE).length * PIECE;
    this.#cellPages = 2 ** Math.max(0, Math.ceil(Math.log2(room / MAX_CELLS)));
  }

  add(pfn: number, kind: Kind): void {
    this.#total[kind]++;
    countsAt(this.#regions, regionOf(pfn))[kind]++;
    countsAt(this.#cells, Math.floor(pfn / this.#cellPages))[kind]++;
  }

  result(): Pick<Comparison, 'total' | 'regions' | 'cellPages' | 'cells'> {
    const cellPages = this.#cellPages;
    return {
      total: this.#total,
      regions: [...this.#regions].map(([region, counts]) => ({
        firstPfn: regionStart(region),
        endPfn: regionStart(region + 1),
        ...counts,
      })),
      cellPages,
      cells: [...this.#cells].map(([cell, counts]) => ({
        firstPfn: cell * cellPages,
        endPfn: (cell + 1) * cellPages,
        ...counts,
      })),
    };
  }
}

function countsAt(all: Map<number, Counts>, key: number): Counts {
  const there = all.get(key);
  if (there !== undefined) return there;
  const counts = noCounts();
  all.set(key, counts);
  return counts;
}

const PAGES_PER_MIB = 2 ** 20 / PAGE_SIZE;

function regionOf(pfn: number): number {
  const mib = Math.floor(pfn / PAGES_PER_MIB);
  if (mib < 1) return 0;
  return mib < 16 ? 1 : 2 + Math.floor(Math.log2(mib / 16));
}

function regionStart(region: number): number {
  if (region === 0) return 0;
  return PAGES_PER_MIB * (region === 1 ? 1 : 16 * 2 ** (region - 2));
}
