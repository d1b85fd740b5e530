/** Finds out where the pages are in a memory file that `FileSaver` has written. */
import { read } from 'node:fs';
import { promisify } from 'node:util';
import { Bitmap } from '../../core/bitmap.ts';
import { throwIfAborted } from '../../core/errors.ts';
import { DEFAULT_PAGES_PER_RECORD, parseSlotHead, SlotLayout } from '../../savefmt/index.ts';
import { PageSet } from '../memory/page-set.ts';
import { bitsPerRecord, emptyBit, Segment } from '../memory/segment.ts';

/** A full record's head. */
const HEAD_BYTES = 8192;

const readFd = promisify(read);

/** Records of one segment, while they are collected. */
interface Run {
  readonly start: number;
  readonly records: { readonly pfns: Uint32Array; readonly split: number }[];
}

/**
 * Reads the heads of all records with pages, and makes the segments that they were written by.
 * @param shape where the records begin and end
 * @returns undefined if their pages are not in the order in which `FileSaver` places them: for example because the guest has
 * given pages away, which leaves other names in their places
 */
export async function readPlaces(
  fd: number,
  { start, end }: { readonly start: number; readonly end: number },
  p2mSize: number,
  signal: AbortSignal | undefined,
): Promise<Segment[] | undefined> {
  const runs: Run[] = [];
  const seen = new Bitmap(p2mSize);
  const buffer = new Uint8Array(HEAD_BYTES);
  let full = false;
  let highest = -1;
  for (let offset = start; offset < end; ) {
    throwIfAborted(signal);
    const { bytesRead } = await readFd(fd, buffer, 0, HEAD_BYTES, offset);
    const head = parseSlotHead(buffer.subarray(0, bytesRead));
    const split = head && splitOf(head.pfns);
    if (head === undefined || split === undefined) return undefined;
    const { pfns, length } = head;
    for (const pfn of pfns) {
      if (pfn >= p2mSize || seen.has(pfn)) return undefined;
      seen.set(pfn);
    }
    const lowest = Math.min(pfns[0] ?? 0, pfns[split] ?? Number.POSITIVE_INFINITY);
    if (!full || lowest <= highest) runs.push({ start: offset, records: [] });
    runs.at(-1)?.records.push({ pfns, split });
    full = pfns.length === DEFAULT_PAGES_PER_RECORD;
    highest = Math.max(pfns[split - 1] ?? 0, pfns.at(-1) ?? 0);
    offset += length;
    if (offset > end) return undefined;
  }
  const segments = runs.map((run) => toSegment(run, p2mSize));
  // What it says of places is what was read, or nothing is.
  const ends = segments.map(({ end: itsEnd }) => itsEnd);
  if (ends.some((itsEnd, at) => itsEnd !== (runs[at + 1]?.start ?? end))) return undefined;
  return segments.map(({ segment }) => segment);
}

/** Where the pages of zeros begin in a record: pfns ascend up to there, and from there on; undefined if they do not. */
function splitOf(pfns: Uint32Array): number | undefined {
  let split = pfns.length;
  for (let i = 1; i < pfns.length; i++) {
    if ((pfns[i] ?? 0) > (pfns[i - 1] ?? 0)) continue;
    if (split < pfns.length) return undefined;
    split = i;
  }
  return split;
}

function toSegment({ start, records }: Run, p2mSize: number): { segment: Segment; end: number } {
  const count = records.reduce((sum, { pfns }) => sum + pfns.length, 0);
  const layout = SlotLayout.create({ firstRecordOffset: start, count });
  const { perRecord, recordCount } = layout;
  const pages = new PageSet(p2mSize);
  const empty = new Bitmap(recordCount * bitsPerRecord(perRecord));
  for (const [record, { pfns, split }] of records.entries()) {
    let data = 0;
    let zero = split;
    for (let i = 0; i < pfns.length; i++) {
      const isZero = data === split || (zero < pfns.length && (pfns[zero] ?? 0) < (pfns[data] ?? 0));
      pages.add(pfns[isZero ? zero++ : data++] ?? 0);
      if (isZero) empty.set(emptyBit(record * perRecord + i, perRecord));
    }
  }
  return { segment: new Segment(pages, layout, empty), end: layout.end };
}
