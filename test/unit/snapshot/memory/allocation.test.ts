/** Memory files and streams whose restore gives the guest superpages. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Bitmap } from '../../../../src/core/bitmap.ts';
import { PfnCount } from '../../../../src/memfile/pfn-count.ts';
import { PfnWords } from '../../../../src/savefmt/index.ts';
import { allocationRoom } from '../../../../src/snapshot/memory/allocation.ts';
import { FileSaver } from '../../../../src/snapshot/memory/file-saver.ts';
import { StreamSaver } from '../../../../src/snapshot/memory/stream-saver.ts';
import { OutputFile } from '../../../../src/snapshot/output/file.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';
import { type PageEntry, pageRecords } from '../../../support/page-records.ts';
import { populate } from '../../../support/populate.ts';

const START = 8192;
const PAGE = 4096;
const SUPERPAGE = 512;
const XTAB = 15;
/** 40 MiB with the hole of the VGA memory, and emptiness above. */
const WHOLE = Array.from({ length: 19 }, (_, at) => (at + 1) * SUPERPAGE);

function p2m(): Uint8Array {
  return new Uint8Array(16_384).fill(XTAB, 160, 192).fill(XTAB, 20 * SUPERPAGE);
}

/** A tenth of the pages is zeros, which stand behind the others in their record. */
function guestOf(types = p2m()): FakeGuest {
  return new FakeGuest(types, (pfn) => pfn % 10 === 0);
}

let directory: string;
let output: OutputFile;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-allocation-'));
  output = await OutputFile.create(join(directory, 'm'));
});
afterEach(async () => {
  await output.discard();
  rmSync(directory, { recursive: true });
});

function saverOf(guest: FakeGuest, pages = guest.memoryBytes / PAGE): FileSaver {
  return new FileSaver(guest, output, START, { expectedPages: pages, spareMemory: () => 2 ** 28 });
}

async function finished(saver: FileSaver): Promise<{ records: PageEntry[][]; start: number }> {
  const { start, end } = await saver.finish();
  await saver.writeKept();
  await output.writeAt(Uint8Array.of(0), end);
  return { records: pageRecords(readFileSync(output.partialPath), START, end), start };
}

/** The last entry of each pfn, and that it is the guest's. */
function expectContent(guest: FakeGuest, records: readonly PageEntry[][], file: Buffer): void {
  const last = new Map(records.flat().map((entry) => [entry.pfn, entry]));
  const wrong = [...Array(guest.p2mSize).keys()].filter((pfn) => {
    const { type = XTAB, at = 0 } = last.get(pfn) ?? {};
    if (type !== guest.typeOf(pfn)) return true;
    return type < 13 && file.compare(guest.page(pfn), 0, PAGE, at, at + PAGE) !== 0;
  });
  expect(wrong).toEqual([]);
}

describe('room for the allocation', () => {
  test.each([
    ['a stopped guest', 'hvm', 100_000, 5120, false, 10],
    ['a running one, which may get more', 'hvm', 100_000, 5120, true, 15],
    ['no more than its p2m has', 'hvm', 6000, 5120, true, 11],
    ['less than 2 MiB', 'hvm', 100_000, 511, false, undefined],
    ['a PV guest', 'pv', 100_000, 5120, true, undefined],
  ] as const)('%s', (_, streamType, p2mSize, pages, live, regions) => {
    expect(allocationRoom({ streamType, p2mSize }, 0, pages, live)?.regions).toBe(regions);
  });
});

describe('in a file', () => {
  test('a stopped guest gets each superpage that it can have, and each page once', async () => {
    const guest = guestOf();
    const saver = saverOf(guest);
    await saver.copyAll();
    const { records, start } = await finished(saver);
    const { superpages, small } = populate(records);
    expect(superpages).toEqual(WHOLE);
    expect(small).toEqual([...Array(SUPERPAGE).keys()].filter((pfn) => pfn < 160 || pfn >= 192));
    expectContent(guest, records, readFileSync(output.partialPath));
    // Nothing but the allocation is new: pages are where they would be without it, behind it.
    expect(start % PAGE).toBe(0);
    expect(start - START).toBe(20 * PAGE);
    expect(populate(records.slice(1)).superpages.length).toBeLessThan(WHOLE.length / 2);
  });

  test('nothing of it is written while the guest is stopped', async () => {
    const guest = guestOf();
    const saver = saverOf(guest);
    await saver.copyAll();
    const { start, end } = await saver.finish();
    await output.writeAt(Uint8Array.of(0), end);
    const before = readFileSync(output.partialPath).subarray(START, start);
    expect(before.every((byte) => byte === 0)).toBe(true);
    await saver.writeKept();
    const after = readFileSync(output.partialPath).subarray(START, start);
    expect(after.some((byte) => byte !== 0)).toBe(true);
  });

  test('a running guest: pages that come later have theirs, those that vanish do not come back', async () => {
    const guest = guestOf();
    const saver = saverOf(guest);
    const dirty = new Bitmap(guest.p2mSize);
    await guest.startDirtyLog();
    await saver.copyAll(dirty);
    // A region and a half come, a region and a page vanish.
    for (let pfn = 22 * SUPERPAGE; pfn < 23.5 * SUPERPAGE; pfn++) guest.setType(pfn, 0);
    for (let pfn = 3 * SUPERPAGE; pfn < 4 * SUPERPAGE; pfn++) guest.setType(pfn, XTAB);
    guest.setType(5 * SUPERPAGE + 7, XTAB);
    await guest.takeDirty(dirty);
    await saver.copyDirty(dirty, 1);
    guest.setType(9 * SUPERPAGE, XTAB);
    await guest.takeDirty(dirty);
    await saver.copyLast(dirty, 2);
    const { records } = await finished(saver);
    const { superpages, small } = populate(records);
    const lost = [3, 5, 9].map((region) => region * SUPERPAGE);
    expect(superpages).toEqual([...WHOLE.filter((pfn) => !lost.includes(pfn)), 22 * SUPERPAGE]);
    // Not one page more than the guest has.
    const all = [
      ...superpages.flatMap((first) => [...Array(SUPERPAGE).keys()].map((at) => first + at)),
      ...small,
    ];
    const has = [...Array(guest.p2mSize).keys()].filter((pfn) => guest.typeOf(pfn) === 0);
    expect(all.sort((a, b) => a - b)).toEqual(has);
    expectContent(guest, records, readFileSync(output.partialPath));
  });

  test('more pages than were expected leave out regions, and no page', async () => {
    const guest = guestOf();
    const saver = saverOf(guest, 4 * SUPERPAGE);
    await saver.copyAll();
    const { records } = await finished(saver);
    expect(populate(records).superpages.slice(0, 4)).toEqual(WHOLE.slice(0, 4));
    expectContent(guest, records, readFileSync(output.partialPath));
  });

  test('a PV guest has no such records', async () => {
    const guest = guestOf();
    guest.streamType = 'pv';
    const saver = saverOf(guest);
    await saver.copyAll();
    const { records, start } = await finished(saver);
    expect(start).toBe(START);
    expect(records.flat().some(({ type }) => type === 14)).toBe(false);
  });
});

/** Takes bytes in order. */
class Pipe {
  readonly parts: Buffer[] = [Buffer.alloc(START)];

  async writeAt(bytes: Uint8Array): Promise<void> {
    this.parts.push(Buffer.from(bytes));
  }
}

describe('in a stream', () => {
  const streamOf = (guest: FakeGuest) => {
    const pipe = new Pipe();
    const saver = new StreamSaver(guest, pipe, START, { expectedPages: guest.memoryBytes / PAGE });
    const ended = async () => {
      const { end } = await saver.finish();
      await saver.writeKept();
      const file = Buffer.concat(pipe.parts);
      return { file, records: pageRecords(file, START, end) };
    };
    return { saver, ended };
  };

  test.each([1024, 1022, 2048])('a stopped guest, %i pages at once', async (maxBatch) => {
    const guest = guestOf();
    guest.maxBatch = maxBatch;
    const { saver, ended } = streamOf(guest);
    await saver.copyAll();
    const { file, records } = await ended();
    expect(populate(records).superpages).toEqual(WHOLE);
    expectContent(guest, records, file);
    // It costs no byte.
    expect(records.flat().every(({ type }) => type === 0)).toBe(true);
    expect(records.flat().length).toBe(guest.memoryBytes / PAGE);
  });

  test('a running guest: regions that come later are allocated first', async () => {
    const guest = guestOf();
    const { saver, ended } = streamOf(guest);
    const dirty = new Bitmap(guest.p2mSize);
    await guest.startDirtyLog();
    await saver.copyAll(dirty);
    // Not aligned to the records of later rounds, which have 1024 dirty pages each.
    for (let pfn = 100; pfn < 300; pfn++) if (guest.typeOf(pfn) === 0) guest.write(pfn, 7);
    for (let pfn = 22 * SUPERPAGE; pfn < 25.5 * SUPERPAGE; pfn++) guest.setType(pfn, 0);
    guest.setType(24 * SUPERPAGE + 1, XTAB);
    await guest.takeDirty(dirty);
    await saver.copyDirty(dirty, 1);
    await guest.takeDirty(dirty);
    await saver.copyLast(dirty, 2);
    const { file, records } = await ended();
    expect(populate(records).superpages).toEqual([...WHOLE, 22 * SUPERPAGE, 23 * SUPERPAGE]);
    expectContent(guest, records, file);
  });

  test('a PV guest has full records', async () => {
    const guest = guestOf();
    guest.streamType = 'pv';
    const { saver, ended } = streamOf(guest);
    await saver.copyAll();
    const { records } = await ended();
    expect(records.slice(0, -1).every((record) => record.length === 1024)).toBe(true);
  });
});

test('the count for inspect is that of a restore', () => {
  const entries = [
    // Unordered, then a region that begins in the middle of one, then one whose half is there already.
    [5, 4, 3],
    [...Array(1200).keys()].map((at) => 700 + at),
    [...Array(512).keys()].map((at) => 4 * SUPERPAGE + at),
    [...Array(600).keys()].map((at) => 4.5 * SUPERPAGE + at),
    [...Array(1024).keys()].map((at) => 8 * SUPERPAGE + at),
  ];
  const count = new PfnCount();
  for (const pfns of entries) count.add(PfnWords.of(pfns));
  const { superpages } = populate(entries.map((pfns) => pfns.map((pfn) => ({ pfn, type: 0, at: 0 }))));
  expect(superpages).toEqual([1024, 2048, 4096, 4608]);
  expect(count.superpages).toBe(superpages.length);
});
