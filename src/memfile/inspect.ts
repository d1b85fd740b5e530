/** Shows the contents of a memory file, for `xlsnap inspect`. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { FileSource } from '../core/byte-source.ts';
import type { CallOptions } from '../core/call-options.ts';
import { describeError, EnvironmentError } from '../core/errors.ts';
import { type Extents, HoleFinder } from '../core/extents.ts';
import { isRecord } from '../core/guards.ts';
import {
  dataOffset,
  type Finding,
  hasPageData,
  PAGE_STATE,
  type PageCounts,
  PageMap,
  type PageRange,
  type PfnWords,
  type RecordCount,
  verifyStream,
} from '../savefmt/index.ts';
import { type DomainSummary, summarizeConfig } from './libxl-config.ts';
import { type Manifest, readManifest } from './manifest.ts';
import { PageReader } from './page-reader.ts';
import { PfnCount } from './pfn-count.ts';
import { MemoryFileError, openMemoryFile } from './verify.ts';

/** Default maximum number of ranges in the memory map. */
const MAX_RANGES = 1000;
/** Maximum number of records whose pages can be read later: 16 TiB of memory in xl's records. */
const MAX_RECORDS = 2 ** 22;

export interface InspectOptions extends Pick<CallOptions, 'signal'> {
  /** Asks the file system where the open file has data. Without it, no page is known to be a hole. */
  readonly extents?: (fd: number) => Promise<Extents>;
  /** Reads all pages, to find the pages of zeros that take space. */
  readonly readPages?: boolean;
  /** Maximum number of ranges in the memory map. Default: 1000. */
  readonly maxRanges?: number | undefined;
}

/** The guest's memory in a file. */
export interface MemoryMap extends PageCounts {
  /** Number of earlier copies of pages that are in the file more than once. The last copy counts. */
  readonly repeated: number;
  /**
   * How many superpages of 2 MiB a restore by Xen 4.21 or later can give the guest, if the host's memory allows it; 0 for a PV
   * guest.
   */
  readonly superpages: number;
  /** Whether pages were read, so that `storedZeros` is meaningful. */
  readonly read: boolean;
  /** Whether the file system could be asked for holes. */
  readonly holesKnown: boolean;
  /** Ranges separated by fewer pfns than this are joined. */
  readonly gap: number;
  /** The ranges, ascending. */
  readonly ranges: readonly PageRange[];
}

/** The contents of a save file, of xl or xlsnap. For a damaged file: what could be read. */
export interface Inspection {
  readonly path: string;
  /** Length of the file in bytes. */
  readonly bytes: number;
  /** Bytes that the file system has allocated for it. */
  readonly allocatedBytes: number;
  /** True if no finding is an error. */
  readonly sound: boolean;
  readonly findings: readonly Finding[];
  /** Number of findings that are not listed. */
  readonly omitted: number;
  /** Type of the guest. `hvm` includes PVH if the configuration does not say more. */
  readonly type: string | undefined;
  /** Version of libxc's stream. */
  readonly streamVersion: number | undefined;
  /** Version of the Xen that saved it. */
  readonly xen: { readonly major: number; readonly minor: number } | undefined;
  readonly header: XlHeaderFacts | undefined;
  readonly domain: DomainSummary | undefined;
  /** The records, in the order of their first appearance. */
  readonly records: readonly RecordCount[];
  readonly memory: MemoryMap;
  /** The manifest beside the file, unchanged; absent if there is none. */
  readonly manifest: Manifest | undefined;
  readonly warnings: readonly string[];
}

/** xl's header. */
export interface XlHeaderFacts {
  readonly mandatoryFlags: number;
  readonly optionalFlags: number;
  /** Length of the configuration with its NUL, in bytes. */
  readonly configBytes: number;
}

/** Where the pages of a record are. */
export interface PageRecord {
  /** Offset of the record's first pfn word. */
  readonly wordsOffset: number;
  readonly count: number;
  readonly dataOffset: number;
  readonly minPfn: number;
  readonly maxPfn: number;
}

/** An inspection, with what is needed to find the pages. */
export interface Scan {
  readonly inspection: Inspection;
  readonly map: PageMap;
  /** Records with pages, in the file's order. */
  readonly records: readonly PageRecord[];
}

/**
 * Reads a save file, of xl or xlsnap, without its pages, and returns what it contains. Needs no Xen, and a
 * byte of memory for each page of the guest. Damage is not an error: the result has what was read before it,
 * and the findings.
 * @throws {MemoryFileError} If the file cannot be opened or has too many records.
 * @throws {InterruptedError} If the signal aborted.
 */
export async function inspectFile(path: string, options: InspectOptions = {}): Promise<Inspection> {
  await using source = await openMemoryFile(path);
  return (await scan(path, source, options)).inspection;
}

/** Does the same as `inspectFile`, for an open file. */
export async function scan(path: string, source: FileSource, options: InspectOptions): Promise<Scan> {
  const { signal, readPages = false, maxRanges = MAX_RANGES } = options;
  const warnings: string[] = [];
  const extents = await askExtents(source, options, warnings);
  const reader = new RecordScan(source, extents, readPages);
  let header: XlHeaderFacts | undefined;
  let hvm = false;
  const populated = new PfnCount();
  const { ok, findings, omitted, facts } = await verifyStream(source, {
    signal,
    onItem: async (item) => {
      if (item.kind === 'xl-header') {
        const { mandatoryFlags, optionalFlags, config } = item.header;
        header = { mandatoryFlags, optionalFlags, configBytes: config?.length ?? 0 };
      } else if (item.kind === 'libxc-headers') {
        hvm = item.domain.guestType === 'hvm';
      } else if (item.kind === 'libxc-record' && item.record.name === 'PAGE_DATA') {
        if (hvm) populated.add(item.record.words);
        await reader.add(item.record.words, item.offset);
      }
    },
  });
  const domain = isRecord(facts.config) ? summarizeConfig(facts.config) : undefined;
  const manifest = await manifestBeside(path, warnings);
  if (manifest !== undefined && manifest.memory.bytes !== source.size) {
    warnings.push(
      `the manifest describes a file of ${manifest.memory.bytes} bytes, but this one has ${source.size}`,
    );
  }
  const { map, records } = reader;
  return {
    map,
    records,
    inspection: {
      path,
      bytes: source.size,
      allocatedBytes: source.allocated,
      sound: ok,
      findings,
      omitted,
      type: domain?.type ?? facts.guestType,
      streamVersion: facts.version,
      xen: facts.xen,
      header,
      domain,
      records: facts.records,
      memory: {
        ...map.counts(),
        repeated: map.repeated,
        superpages: populated.superpages,
        read: readPages,
        holesKnown: extents !== undefined,
        ...map.ranges(maxRanges),
      },
      manifest,
      warnings,
    },
  };
}

async function askExtents(
  source: FileSource,
  { extents }: InspectOptions,
  warnings: string[],
): Promise<Extents | undefined> {
  try {
    return await extents?.(source.fd);
  } catch (error) {
    if (!(error instanceof EnvironmentError)) throw error;
    warnings.push(`the file's holes are unknown: ${describeError(error)}`);
    return undefined;
  }
}

async function manifestBeside(path: string, warnings: string[]): Promise<Manifest | undefined> {
  try {
    return await readManifest(`${path}.json`);
  } catch (error) {
    warnings.push(describeError(error));
    return undefined;
  }
}

/** Collects PAGE_DATA records. */
class RecordScan {
  readonly map = new PageMap();
  readonly records: PageRecord[] = [];
  readonly #holes: HoleFinder | undefined;
  readonly #pages: PageReader | undefined;
  readonly #size: number;

  constructor(source: FileSource, extents: Extents | undefined, readPages: boolean) {
    this.#size = source.size;
    this.#holes = extents === undefined ? undefined : new HoleFinder(extents);
    this.#pages = readPages ? new PageReader(source) : undefined;
  }

  async add(words: PfnWords, offset: number): Promise<void> {
    const start = dataOffset(offset, words.count);
    const pages = words.dataPages();
    // The reader finds that out only when it skips the pages.
    if (start + pages * PAGE_SIZE > this.#size) return;
    const content = new Uint8Array(pages);
    for (let i = 0; i < pages; i++) {
      const at = start + i * PAGE_SIZE;
      if (this.#holes?.isHole(at, PAGE_SIZE)) content[i] = PAGE_STATE.hole;
      else if (this.#pages !== undefined && (await isZero(this.#pages, at)))
        content[i] = PAGE_STATE.storedZero;
    }
    this.map.add(words, content, offset);
    if (pages === 0) return;
    if (this.records.length >= MAX_RECORDS) {
      throw new MemoryFileError('TOO_MANY_RECORDS', `more than ${MAX_RECORDS} PAGE_DATA records`, { offset });
    }
    this.records.push(toPageRecord(words, offset, start));
  }
}

const ZEROS = Buffer.alloc(PAGE_SIZE);

async function isZero(pages: PageReader, offset: number): Promise<boolean> {
  let at = pages.position(offset);
  if (at < 0) at = await pages.load(offset);
  return pages.window.compare(ZEROS, 0, PAGE_SIZE, at, at + PAGE_SIZE) === 0;
}

function toPageRecord(words: PfnWords, offset: number, start: number): PageRecord {
  let minPfn = Number.POSITIVE_INFINITY;
  let maxPfn = -1;
  for (let i = 0; i < words.count; i++) {
    if (!hasPageData(words.type(i))) continue;
    const pfn = words.pfn(i);
    minPfn = Math.min(minPfn, pfn);
    maxPfn = Math.max(maxPfn, pfn);
  }
  const wordsOffset = dataOffset(offset, 0);
  return { wordsOffset, count: words.count, dataOffset: start, minPfn, maxPfn };
}
