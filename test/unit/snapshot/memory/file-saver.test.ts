import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { allOnes, Bitmap } from '../../../../src/core/bitmap.ts';
import type { CallOptions } from '../../../../src/core/call-options.ts';
import { InterruptedError, OutputError } from '../../../../src/core/errors.ts';
import { type Progress, silentReporter } from '../../../../src/core/reporter.ts';
import { FileSaver, type MemoryOutcome } from '../../../../src/snapshot/memory/file-saver.ts';
import { OutputFile } from '../../../../src/snapshot/output/file.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';
import { type PageEntry, pageEntries } from '../../../support/page-records.ts';

const START = 8192;
const PAGE = 4096;
const NOTAB = 0;
const BROKEN = 13;
const XTAB = 15;

let directory: string;
let output: OutputFile;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-memory-'));
  output = await OutputFile.create(join(directory, 'm'));
});
afterEach(async () => {
  await output.discard();
  rmSync(directory, { recursive: true });
});

/** A p2m with RAM, a hole, RAM, and nothing above. */
function p2m(): Uint8Array {
  return new Uint8Array(20_000).fill(NOTAB).fill(XTAB, 160, 192).fill(XTAB, 9000);
}

function saverOf(guest: FakeGuest, options: CallOptions = {}, spare = 2 ** 28): FileSaver {
  return new FileSaver(guest, output, START, {
    ...options,
    expectedPages: guest.memoryBytes / PAGE,
    spareMemory: () => spare,
  });
}

/** Saves a suspended guest. */
async function save(guest: FakeGuest, options: CallOptions = {}): Promise<MemoryOutcome> {
  const saver = saverOf(guest, options);
  await saver.copyAll();
  const outcome = await saver.finish();
  await saver.writeKept();
  return outcome;
}

/** Returns the whole file; a hole at its end is included. */
async function read(end: number): Promise<Buffer> {
  await output.writeAt(Uint8Array.of(0), end);
  return readFileSync(output.partialPath);
}

/** Returns what a restore would make of the file: later entries win. */
async function expectGuest(guest: FakeGuest, end: number): Promise<Map<number, PageEntry>> {
  const file = await read(end);
  const final = new Map<number, PageEntry>();
  for (const entry of pageEntries(file, START, end)) final.set(entry.pfn, entry);
  const wrong: string[] = [];
  for (let pfn = 0; pfn < guest.p2mSize; pfn++) {
    const type = guest.typeOf(pfn);
    const entry = final.get(pfn);
    const found = entry?.type ?? XTAB;
    if (found !== type) wrong.push(`page ${pfn} is of type ${found}, not ${type}`);
    if (entry === undefined || type >= BROKEN) continue;
    if (entry.at % PAGE !== 0) wrong.push(`page ${pfn} is at ${entry.at}`);
    if (file.compare(guest.page(pfn), 0, PAGE, entry.at, entry.at + PAGE) !== 0)
      wrong.push(`page ${pfn} is another`);
  }
  expect(wrong).toEqual([]);
  return final;
}

describe('copyAll', () => {
  test('writes every page once, zero pages as holes, BROKEN and XALLOC without data, XTAB not at all', async () => {
    const types = p2m();
    types[5] = BROKEN;
    types[7] = 14;
    types[9] = 0x9;
    const guest = new FakeGuest(types, (pfn) => pfn % 3 === 0);
    const outcome = await save(guest);
    const wanted = [...types.keys()].filter((pfn) => types[pfn] !== XTAB);
    const final = await expectGuest(guest, outcome.end);
    expect([...final.keys()].sort((a, b) => a - b)).toEqual(wanted);
    expect(outcome.pages).toBe(wanted.length - 2);
    expect(outcome.zeroPages).toBe(wanted.filter((pfn) => pfn % 3 === 0).length);
    const seen = pageEntries(await read(outcome.end), START, outcome.end).filter(({ type }) => type < BROKEN);
    expect(new Set(seen.map(({ pfn }) => pfn)).size).toBe(seen.length);
  });

  test('asks for types in bounded pieces and stops between them when interrupted', async () => {
    const guest = new FakeGuest(new Uint8Array(200_000).fill(XTAB));
    expect((await save(guest)).pages).toBe(0);
    expect(guest.calls.mostTypes).toBe(16_384);
    await expect(save(guest, { signal: AbortSignal.abort() })).rejects.toThrow(InterruptedError);
  });

  test('refuses a p2m whose pfns do not fit into 32 bits', async () => {
    const guest = Object.assign(new FakeGuest(new Uint8Array(0)), { p2mSize: 2 ** 32 + 1 });
    await expect(save(guest)).rejects.toMatchObject({ code: 'DOMAIN_P2M' });
  });

  test('copies several records at once', async () => {
    const guest = new FakeGuest(p2m());
    guest.beforeCopy = () => vi.waitFor(() => expect(guest.calls.mostAtOnce).toBe(4), 10_000);
    const { pages } = await save(guest);
    const sizes = guest.calls.packed.map((pfns) => pfns.length);
    expect(sizes.reduce((a, b) => a + b, 0)).toBe(pages);
    expect(sizes).toEqual([...new Array(8).fill(1022), 8968 - 8 * 1022]);
    expect(guest.calls.mostAtOnce).toBe(4);
  });

  test('of a stopped guest waits for no write, as long as there is memory for the copies', async () => {
    const guest = new FakeGuest(p2m());
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    guest.beforeWrite = () => held;
    const saver = saverOf(guest);
    await saver.copyAll();
    const { end } = await saver.finish();
    expect(guest.calls.writing).toBe(9);
    // What the guest writes from now on is not in the file.
    const before = guest.page(0);
    let isWritten = false;
    const kept = saver.writeKept().then(() => {
      isWritten = true;
    });
    await sleep(20);
    expect(isWritten).toBe(false);
    guest.write(0, 4711);
    release();
    await kept;
    guest.write(0, new Uint32Array(before.buffer)[0] ?? 0);
    await expectGuest(guest, end);
  });

  test('of a stopped guest waits when memory runs short', async () => {
    const guest = new FakeGuest(p2m());
    const releases: (() => void)[] = [];
    guest.beforeWrite = () => new Promise((resolve) => releases.push(resolve));
    const saver = saverOf(guest, {}, 2 * 8 * 1022 * PAGE);
    const copied = saver.copyAll();
    await vi.waitFor(() => expect(guest.calls.writing).toBe(8));
    await sleep(20);
    expect(guest.calls.writing).toBe(8);
    const timer = setInterval(() => releases.splice(0).map((release) => release()), 1);
    onTestFinished(() => clearInterval(timer));
    await copied;
    const { end } = await saver.finish();
    await saver.writeKept();
    expect(guest.calls.mostWriting).toBe(8);
    await expectGuest(guest, end);
  });

  test('of a running guest waits for each write: later rounds overwrite them', async () => {
    const guest = new FakeGuest(p2m());
    guest.beforeWrite = () => sleep(1);
    const saver = saverOf(guest);
    await saver.copyAll(new Bitmap(guest.p2mSize));
    expect(guest.calls.writing).toBe(0);
    expect(guest.calls.mostWriting).toBeLessThanOrEqual(4);
  });

  test('stops copying after a write that fails', async () => {
    const guest = new FakeGuest(p2m());
    const failed = new OutputError('OUTPUT_WRITE', 'planted');
    let writes = 0;
    guest.beforeWrite = async () => {
      if (++writes === 2) throw failed;
      await sleep(1);
    };
    const saver = saverOf(guest, {}, 2 * 1022 * PAGE);
    await expect(saver.copyAll()).rejects.toBe(failed);
    expect(guest.calls.packed.length).toBeLessThan(9);
  });

  test('a write that fails later is reported by writeKept, and by commit', async () => {
    const guest = new FakeGuest(p2m());
    const failed = new OutputError('OUTPUT_WRITE', 'planted');
    let fail = (): void => {};
    const held = new Promise<void>((_, reject) => {
      fail = () => reject(failed);
    });
    guest.beforeWrite = () => held;
    const saver = saverOf(guest);
    await saver.copyAll();
    await saver.finish();
    fail();
    await expect(saver.writeKept()).rejects.toBe(failed);
    await expect(output.commit()).rejects.toBe(failed);
  });

  test('puts pages with data before those of zeros in each record', async () => {
    const guest = new FakeGuest(p2m(), (pfn) => pfn % 3 === 0);
    const { end } = await save(guest);
    const all = pageEntries(await read(end), START, end).filter(({ type }) => type < BROKEN);
    for (let from = 0; from < all.length; from += 1022) {
      const pfns = all.slice(from, from + 1022).map(({ pfn }) => pfn);
      const data = pfns.filter((pfn) => pfn % 3 !== 0);
      const zeros = pfns.filter((pfn) => pfn % 3 === 0);
      expect(pfns).toEqual([...data, ...zeros]);
    }
  });

  test('writes no records for a guest without memory', async () => {
    const guest = new FakeGuest(new Uint8Array(10).fill(XTAB));
    expect(await save(guest)).toEqual({
      pages: 0,
      populated: 0,
      zeroPages: 0,
      writtenStopped: 0,
      start: START,
      end: START,
      segments: [expect.anything()],
    });
  });

  test('fails for a page of a suspended guest that cannot be mapped', async () => {
    const guest = new FakeGuest(p2m());
    guest.beforeCopy = async (pfns) => {
      if (pfns.includes(300)) guest.setType(300, XTAB);
    };
    await expect(save(guest)).rejects.toMatchObject({ code: 'PAGE_UNMAPPABLE', data: { pfns: [300] } });
  });

  test('ends at an error, once no batch is running, and starts no further ones', async () => {
    const guest = new FakeGuest(p2m());
    let begun = 0;
    guest.beforeCopy = async () => {
      begun++;
      if (begun === 3) throw new OutputError('OUTPUT_WRITE', 'disk full');
      await sleep(20);
    };
    await expect(save(guest)).rejects.toThrow('disk full');
    expect(guest.calls.running).toBe(0);
    const after = begun;
    await sleep(40);
    expect(begun).toBe(after);
    expect(begun).toBeLessThan(10);
  });

  test('ends at an error of the types, once no batch is running', async () => {
    const guest = new FakeGuest(new Uint8Array(40_000));
    guest.beforeCopy = () => sleep(20);
    const real = guest.pageTypes.bind(guest);
    guest.pageTypes = async (pfns) => {
      if ((pfns[0] ?? 0) > 20_000) throw new Error('no types');
      return await real(pfns);
    };
    await expect(save(guest)).rejects.toThrow('no types');
    expect(guest.calls.running).toBe(0);
  });

  test('ends between batches when the signal aborts', async () => {
    const guest = new FakeGuest(p2m());
    const controller = new AbortController();
    guest.beforeCopy = async () => {
      await sleep(1);
      if (guest.calls.packed.length > 3) controller.abort();
    };
    await expect(save(guest, { signal: controller.signal })).rejects.toThrow(InterruptedError);
    expect(guest.calls.running).toBe(0);
    expect(guest.calls.packed.length).toBeLessThan(9);
  });

  test('reports its progress now and then, and the end', async () => {
    const guest = new FakeGuest(new Uint8Array(100_000));
    guest.beforeCopy = () => sleep(5);
    const told: Progress[] = [];
    const reporter = { ...silentReporter, progress: (progress: Progress) => told.push(progress) };
    // A clock of its own: on a loaded machine each piece takes longer than the interval of reports.
    let clock = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => (clock += 5));
    onTestFinished(() => void vi.restoreAllMocks());
    const { pages } = await save(guest, { reporter });
    expect(told.length).toBeGreaterThan(1);
    expect(told.length).toBeLessThan(guest.calls.packed.length / 2);
    expect(told.at(-1)).toMatchObject({ phase: 'memory', unit: 'pages', done: pages, total: pages });
    expect(told.at(-1)).not.toHaveProperty('round');
    expect(told.map(({ done }) => done)).toEqual(told.map(({ done }) => done).sort((a, b) => a - b));
  });
});

describe('copyDirty', () => {
  let guest: FakeGuest;
  let saver: FileSaver;
  let dirty: Bitmap;
  beforeEach(async () => {
    guest = new FakeGuest(p2m(), (pfn) => pfn % 3 === 0);
    saver = saverOf(guest);
    dirty = new Bitmap(guest.p2mSize);
    await guest.startDirtyLog();
    await saver.copyAll(dirty);
  });

  async function round(last: boolean): Promise<number> {
    await guest.takeDirty(dirty);
    return await (last ? saver.copyLast(dirty, 1) : saver.copyDirty(dirty, 1));
  }

  async function finish(): Promise<MemoryOutcome> {
    const outcome = await saver.finish();
    await saver.writeKept();
    return outcome;
  }

  test('writes changed pages to their old places, also those that have become zeros', async () => {
    guest.write(1, 0);
    guest.write(2, 77);
    guest.write(3, 78);
    guest.write(8999, 79);
    expect(await round(false)).toBe(4);
    guest.write(2, 80);
    expect(await round(true)).toBe(1);
    expect(dirty.count()).toBe(0);
    const { end, pages } = await finish();
    const all = pageEntries(await read(end), START, end).filter(({ type }) => type < BROKEN);
    expect(all).toHaveLength(pages);
    await expectGuest(guest, end);
  });

  test('handles pages that come, go, and come again', async () => {
    // 170 and 9100 did not exist before; 9100 and up make more than one batch.
    guest.setType(170, NOTAB);
    for (let pfn = 9100; pfn < 9300; pfn++) guest.setType(pfn, NOTAB);
    guest.setType(10, XTAB);
    guest.setType(11, XTAB);
    guest.setType(12, BROKEN);
    await round(false);
    guest.setType(11, NOTAB);
    guest.write(11, 5);
    guest.write(170, 6);
    guest.setType(9101, XTAB);
    guest.setType(9500, NOTAB);
    guest.setType(9501, BROKEN);
    await round(true);
    const { end, pages } = await finish();
    await expectGuest(guest, end);
    expect(pages).toBe(9000 - 32 + 1 + 200 + 1 - 3);
  });

  test('a restore gets only those pages that the guest has in the end', async () => {
    // The first page of all, neighbours, the last one of a record and of the last record; one of them occurs
    // again.
    for (const pfn of [0, 1, 2, 500, 501, 1053, 8999]) guest.setType(pfn, XTAB);
    guest.setType(700, BROKEN);
    guest.setType(9100, NOTAB);
    await round(false);
    guest.setType(501, NOTAB);
    guest.write(501, 5);
    guest.setType(9100, XTAB);
    await round(true);
    const { end, pages, populated } = await finish();
    await expectGuest(guest, end);
    const entries = pageEntries(await read(end), START, end);
    const given = new Set(entries.filter(({ type }) => type < BROKEN).map(({ pfn }) => pfn));
    const has = Array.from({ length: guest.p2mSize }, (_, pfn) => pfn).filter(
      (pfn) => guest.typeOf(pfn) < BROKEN,
    );
    expect([...given].sort((a, b) => a - b)).toEqual(has);
    expect([pages, populated]).toEqual([has.length, has.length]);
  });

  test('handles a guest that has given all of its pages away', async () => {
    for (let pfn = 0; pfn < 9000; pfn++) guest.setType(pfn, XTAB);
    await round(true);
    await expectGuest(guest, (await finish()).end);
  });

  test('changes the word of a page that becomes a page table, and ceases to be one', async () => {
    guest.setType(20, 1);
    guest.setType(9100, 2);
    await round(false);
    guest.setType(20, 0x9);
    guest.setType(21, 3);
    guest.setType(9100, NOTAB);
    await round(false);
    guest.setType(21, NOTAB);
    await round(true);
    await expectGuest(guest, (await finish()).end);
  });

  test('leaves a page that cannot be mapped for later, and fails for it in the last round', async () => {
    guest.write(30, 1);
    guest.write(31, 1);
    guest.beforeCopy = async () => guest.setType(30, XTAB);
    expect(await round(false)).toBe(1);
    expect([...dirty.indices()]).toEqual([30]);
    guest.beforeCopy = async () => {};
    await round(false);
    expect(dirty.count()).toBe(0);
    guest.write(31, 1);
    guest.beforeCopy = async () => guest.setType(31, XTAB);
    await expect(round(true)).rejects.toMatchObject({ code: 'PAGE_UNMAPPABLE' });
  });

  test('writes nothing that the suspended guest did before writeKept: pages, new pages, types', async () => {
    guest.setType(20, 1);
    await round(false);
    for (let pfn = 200; pfn < 8900; pfn++) guest.write(pfn, 9);
    guest.setType(20, NOTAB);
    guest.setType(21, 3);
    guest.setType(10, XTAB);
    guest.setType(12, BROKEN);
    for (let pfn = 10_000; pfn < 12_000; pfn++) guest.setType(pfn, pfn === 10_500 ? 2 : NOTAB);
    guest.setType(9500, BROKEN);
    await guest.takeDirty(dirty);
    saver.readyToKeep(100);
    const packed = guest.calls.packed.length;
    const write = vi.spyOn(output, 'writeAt');
    await saver.copyLast(dirty, 1);
    const { end, pages, writtenStopped } = await saver.finish();
    expect(write).not.toHaveBeenCalled();
    expect(guest.calls.packed.length).toBe(packed);
    expect(writtenStopped).toBe(0);
    expect(pages).toBe(9000 - 32 + 2000 - 2);
    await saver.writeKept();
    await expectGuest(guest, end);
    write.mockClear();
    await saver.writeKept();
    expect(write).not.toHaveBeenCalled();
  });

  test('writes pages at once for which the host has no memory, and counts them', async () => {
    guest = new FakeGuest(p2m(), (pfn) => pfn % 3 === 0);
    saver = saverOf(guest, {}, 4000 * PAGE);
    await guest.startDirtyLog();
    await saver.copyAll(dirty);
    for (let pfn = 200; pfn < 4500; pfn++) guest.write(pfn, 9);
    for (let pfn = 10_000; pfn < 12_000; pfn++) guest.setType(pfn, NOTAB);
    await guest.takeDirty(dirty);
    saver.readyToKeep(2000);
    const write = vi.spyOn(output, 'writeAt');
    expect(await saver.copyLast(dirty, 1)).toBe(6300);
    // The allocation before the pages does not count.
    let start = 0;
    const bytes = (): number =>
      write.mock.calls.reduce((sum, [bytes, position]) => sum + (position < start ? 0 : bytes.length), 0);
    // The 4300 old pages come in batches of 1024: the first and the last fit the first 2000, the second fits
    // 2000 more.
    const atOnce = bytes() / PAGE;
    expect(atOnce).toBe(4300 - 1024 - 1024 - 204);
    const outcome = await saver.finish();
    const { end, writtenStopped } = outcome;
    start = outcome.start;
    expect(writtenStopped).toBe(atOnce + 2000);
    write.mockClear();
    await saver.writeKept();
    expect(bytes()).toBe((4300 - atOnce) * PAGE);
    await expectGuest(guest, end);
  });

  test('writes nothing that waits once it is interrupted', async () => {
    const controller = new AbortController();
    saver = saverOf(guest, { signal: controller.signal });
    await saver.copyAll(dirty);
    guest.write(300, 9);
    await round(true);
    controller.abort();
    await expect(saver.writeKept()).rejects.toThrow(InterruptedError);
  });

  test('can estimate the last copy once pages were copied again', async () => {
    expect(saver.lastCopyMs(100)).toBeUndefined();
    guest.write(200, 9);
    guest.beforeCopy = () => sleep(5);
    await round(false);
    expect(saver.lastCopyMs(10)).toBeGreaterThan(40);
    expect(saver.lastCopyMs(4097)).toBeGreaterThan(16_000);
    expect(saver.lastCopyMs(2 ** 40)).toBeUndefined();
  });
});

test('the disk begins to write while the guest runs, and never while it is stopped', async () => {
  const begin = vi.spyOn(output, 'beginSync');
  const guest = new FakeGuest(p2m());
  await save(guest);
  expect(begin).not.toHaveBeenCalled();
  await saverOf(guest).copyAll(new Bitmap(guest.p2mSize));
  expect(begin).toHaveBeenCalledTimes(9);
});

test('clean pages between dirty ones are copied with them, if there are any', async () => {
  const guest = new FakeGuest(p2m(), (pfn) => pfn % 40 === 0);
  const saver = saverOf(guest);
  const dirty = new Bitmap(guest.p2mSize);
  await guest.startDirtyLog();
  await saver.copyAll(dirty);
  const run = Array.from({ length: 11 }, (_, i) => 401 + i);
  for (const pfn of [10, 13, 20, 24, 38, 40, 159, 192, ...run]) guest.write(pfn, 9);
  await guest.takeDirty(dirty);
  expect(await saver.copyDirty(dirty, 1)).toBe(19);
  // The next gap would be too much, and 40 is among the zeros, behind its neighbours.
  const copied = [10, 11, 12, 13, 20, 24, 38, 159, 192, ...run, 40];
  expect(guest.calls.read.flatMap((pfns) => [...pfns])).toEqual(copied);
  const { end } = await saver.finish();
  await saver.writeKept();
  await expectGuest(guest, end);
});

test('if all pages count as dirty, all existing ones are copied again', async () => {
  const guest = new FakeGuest(p2m(), (pfn) => pfn % 3 === 0);
  const saver = saverOf(guest);
  const dirty = new Bitmap(guest.p2mSize);
  await guest.startDirtyLog();
  await saver.copyAll(dirty);
  for (let pfn = 0; pfn < 4000; pfn++) guest.write(pfn, 9);
  dirty.or(allOnes(guest.p2mSize));
  await saver.copyDirty(dirty, 1);
  expect(dirty.count()).toBe(0);
  const { end } = await saver.finish();
  await saver.writeKept();
  await expectGuest(guest, end);
});

test('a page given away during the first copy is left for later', async () => {
  const guest = new FakeGuest(p2m());
  const saver = saverOf(guest);
  const dirty = new Bitmap(guest.p2mSize);
  await guest.startDirtyLog();
  guest.beforeCopy = async () => guest.setType(8000, XTAB);
  await saver.copyAll(dirty);
  expect([...dirty.indices()]).toEqual([8000]);
  guest.beforeCopy = async () => {};
  await guest.takeDirty(dirty);
  await saver.copyDirty(dirty, 1);
  const { end } = await saver.finish();
  await saver.writeKept();
  await expectGuest(guest, end);
});
