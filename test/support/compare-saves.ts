/**
 * Compares two save files of one guest: which pfns they have, their types, their contents with page tables
 * normalised, and the records around them.
 */
import type { LibxcStateRecord } from '../../src/savefmt/index.ts';
import type { Contents } from './relayout.ts';

/** A page that both have, with different content. */
export interface PageDifference {
  readonly pfn: number;
  readonly type: number;
  /** The first and the last byte that differ, and how many do. */
  readonly first: number;
  readonly last: number;
  readonly bytes: number;
  /** What the page is, if it is known that programs in dom0 write to it while the guest is suspended. */
  readonly known: string | undefined;
}

export interface SaveDifference {
  /** pfns with data that only one file has. */
  readonly onlyFirst: readonly number[];
  readonly onlySecond: readonly number[];
  readonly types: readonly { readonly pfn: number; readonly first: number; readonly second: number }[];
  readonly pages: readonly PageDifference[];
  /** Names of records that differ, or that one file lacks. */
  readonly records: readonly string[];
  /** Pages that are the same, and how many of them are page tables. */
  readonly same: number;
  readonly sameTables: number;
}

export function compareSaves(first: Contents, second: Contents): SaveDifference {
  const onlyFirst = [...first.pages.keys()].filter((pfn) => !second.pages.has(pfn));
  const onlySecond = [...second.pages.keys()].filter((pfn) => !first.pages.has(pfn));
  const types: SaveDifference['types'][number][] = [];
  const pages: PageDifference[] = [];
  const known = knownPages(first);
  let same = 0;
  let sameTables = 0;
  for (const [pfn, page] of first.pages) {
    const other = second.pages.get(pfn);
    if (other === undefined) continue;
    if (page.type !== other.type) types.push({ pfn, first: page.type, second: other.type });
    const difference = compareBytes(page.data, other.data);
    if (difference !== undefined) {
      const why =
        known.get(pfn) ?? (onlyEvents(page.data, other.data) ? 'events that are pending' : undefined);
      pages.push({ pfn, type: page.type, ...difference, known: why });
    } else {
      same++;
      if (page.type !== 0) sameTables++;
    }
  }
  return { onlyFirst, onlySecond, types, pages, records: compareRecords(first, second), same, sameTables };
}

function compareBytes(
  a: Uint8Array,
  b: Uint8Array,
): Pick<PageDifference, 'first' | 'last' | 'bytes'> | undefined {
  if (Buffer.compare(a, b) === 0) return undefined;
  const differing = [...a.keys()].filter((at) => a[at] !== b[at]);
  return { first: differing[0] ?? 0, last: differing.at(-1) ?? 0, bytes: differing.length };
}

/**
 * Returns whether nothing differs but flags of event words (xen/event_channel.h, EVTCHN_FIFO_PENDING, MASKED,
 * LINKED: bits 29 to 31 of 32). No record says which page they are in: only Xen knows it from the guest. A
 * program in dom0 that writes to a ring of the suspended guest makes one pending.
 */
function onlyEvents(a: Uint8Array, b: Uint8Array): boolean {
  return a.every((byte, at) => {
    const bits = byte ^ (b[at] ?? 0);
    return bits === 0 || (at % 4 === 3 && (bits & 0x1f) === 0);
  });
}

function compareRecords(first: Contents, second: Contents): string[] {
  const name = (record: LibxcStateRecord): string =>
    'vcpuId' in record ? `${record.name} of vCPU ${record.vcpuId}` : record.name;
  const all = (contents: Contents): LibxcStateRecord[] => [
    ...contents.staticRecords,
    ...contents.startRecords,
    ...contents.records,
  ];
  const [a, b] = [all(first), all(second)];
  const names = new Set([...a, ...b].map(name));
  const text = (records: readonly LibxcStateRecord[], which: string): string =>
    JSON.stringify(
      records.filter((record) => name(record) === which),
      (_key, value: unknown) =>
        typeof value === 'bigint'
          ? String(value)
          : value instanceof Uint8Array
            ? Buffer.from(value).toString('hex')
            : value instanceof BigUint64Array
              ? [...value].map(String)
              : value,
    );
  return [...names].filter((which) => text(a, which) !== text(b, which));
}

/**
 * Returns the pages of a 64-bit PV guest that its start info names: rings that xenstored and xenconsoled
 * write to. In a suspended guest they are pfns.
 */
function knownPages(contents: Contents): ReadonlyMap<number, string> {
  const known = new Map<number, string>();
  const vcpu = contents.records.find(
    (record) => record.name === 'X86_PV_VCPU_BASIC' && 'vcpuId' in record && record.vcpuId === 0,
  );
  if (vcpu === undefined || !('context' in vcpu) || vcpu.context.length !== 5168) return known;
  const edx = new DataView(vcpu.context.buffer, vcpu.context.byteOffset).getBigUint64(616, true);
  const info = contents.pages.get(Number(edx));
  if (info === undefined) return known;
  const view = new DataView(info.data.buffer, info.data.byteOffset);
  // struct start_info (xen/xen.h): magic[32], nr_pages, shared_info, flags, store_mfn, store_evtchn, console.domU.mfn.
  known.set(Number(view.getBigUint64(56, true)), 'ring of xenstored');
  known.set(Number(view.getBigUint64(72, true)), 'ring of the console');
  return known;
}

/** One line for each difference. */
export function describeDifference(difference: SaveDifference): string {
  const { onlyFirst, onlySecond, types, pages, records, same, sameTables } = difference;
  return [
    `${same} pages are the same, ${sameTables} of them page tables`,
    ...onlyFirst.map((pfn) => `pfn ${pfn}: only in the first`),
    ...onlySecond.map((pfn) => `pfn ${pfn}: only in the second`),
    ...types.map(({ pfn, first, second }) => `pfn ${pfn}: types ${first} and ${second}`),
    ...pages.map(
      ({ pfn, type, first, last, bytes, known }) =>
        `pfn ${pfn} of type ${type}: ${bytes} bytes of ${first} to ${last} differ${known === undefined ? '' : ` (${known})`}`,
    ),
    ...records.map((name) => `record ${name} differs`),
  ].join('\n');
}
