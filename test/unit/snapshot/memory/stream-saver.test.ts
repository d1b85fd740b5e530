import { expect, test } from 'vitest';
import { allOnes, Bitmap } from '../../../../src/core/bitmap.ts';
import { OutputError } from '../../../../src/core/errors.ts';
import { StreamSaver } from '../../../../src/snapshot/memory/stream-saver.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';
import { type PageEntry, pageEntries } from '../../../support/page-records.ts';

const PAGE = 4096;
const START = 24;
const XTAB = 15;

/** Takes bytes in order, some of them slowly, and none once it is to fail. */
class SlowOutput {
  readonly parts: Buffer[] = [];
  end = START;
  fail = false;

  async writeAt(bytes: Uint8Array, position: number): Promise<void> {
    expect(position).toBe(this.end);
    if (this.fail) throw new OutputError('OUTPUT_WRITE', 'gone');
    this.end += bytes.length;
    await new Promise((resolve) => setTimeout(resolve, 1));
    // Only now: until then the bytes must not change.
    this.parts.push(Buffer.from(bytes));
  }

  bytes(): Buffer {
    return Buffer.concat([Buffer.alloc(START), ...this.parts]);
  }
}

function saverOf(guest: FakeGuest, output: SlowOutput, spare = 2 ** 26): StreamSaver {
  const expectedPages = guest.memoryBytes / PAGE;
  return new StreamSaver(guest, output, START, { expectedPages, spareMemory: () => spare });
}

/** Later entries win. */
function expectGuest(guest: FakeGuest, output: SlowOutput): PageEntry[] {
  const file = output.bytes();
  const all = pageEntries(file, START, output.end);
  const last = new Map(all.map((entry) => [entry.pfn, entry]));
  for (let pfn = 0; pfn < guest.p2mSize; pfn++) {
    const type = guest.typeOf(pfn);
    const entry = last.get(pfn);
    if (type === XTAB) expect(entry?.type ?? XTAB, `pfn ${pfn}`).toBe(XTAB);
    else {
      expect(entry?.type, `pfn ${pfn}`).toBe(type);
      if (type >= 13) continue;
      const at = entry?.at ?? 0;
      expect(
        guest.page(pfn).every((byte, i) => file[at + i] === byte),
        `pfn ${pfn}`,
      ).toBe(true);
    }
  }
  return all;
}

test('a stream has each page of a suspended guest once, zeros too', async () => {
  const types = new Uint8Array(5000).fill(XTAB, 160, 192).fill(XTAB, 4000);
  types[7] = 13;
  const guest = new FakeGuest(types);
  const output = new SlowOutput();
  const saver = saverOf(guest, output);
  expect(await saver.copyAll()).toBe(3967);
  const outcome = await saver.finish();
  expect(outcome).toEqual({
    pages: 3967,
    populated: 3967,
    zeroPages: 0,
    writtenStopped: 0,
    start: START,
    end: output.end,
    segments: [],
  });
  const all = expectGuest(guest, output);
  expect(all).toHaveLength(3968);
  // A page without data comes after the others.
  expect(all.at(-1)).toMatchObject({ pfn: 7, type: 13 });
});

test('a stream has those pages of a live guest again that it writes, gives away or gets', async () => {
  const guest = new FakeGuest(new Uint8Array(3000).fill(XTAB, 2500));
  const output = new SlowOutput();
  const saver = saverOf(guest, output);
  const dirty = new Bitmap(guest.p2mSize);
  await guest.startDirtyLog();
  let once = true;
  guest.beforeCopy = async () => {
    if (!once) return;
    once = false;
    // In the middle of the first round, after its types were asked for.
    guest.setType(3, XTAB);
    guest.setType(4, XTAB);
  };
  await saver.copyAll(dirty);
  expect([...dirty.indices()]).toEqual([3, 4]);
  guest.setType(4, 0);
  guest.setType(2700, 0);
  for (let pfn = 100; pfn < 2400; pfn += 2) guest.write(pfn, 7);
  await guest.takeDirty(dirty);
  const total = dirty.count();
  expect(await saver.copyDirty(dirty, 1)).toBe(total);
  expect(dirty.count()).toBe(0);
  for (const pfn of [3, 5, 2399]) guest.setType(pfn, pfn === 5 ? XTAB : 0);
  guest.write(9, 9);
  await guest.takeDirty(dirty);
  expect(await saver.copyLast(dirty, 2)).toBe(3);
  const before = output.end;
  const { pages, writtenStopped, end } = await saver.finish();
  // It waits until the guest runs again.
  expect([output.end, writtenStopped]).toEqual([before, 0]);
  await saver.writeKept();
  expect(output.end).toBe(end);
  const all = expectGuest(guest, output);
  expect(all.filter(({ type }) => type === 0)).toHaveLength(pages);
});

test('where memory runs short, all that waits is written before what follows, and is counted', async () => {
  const guest = new FakeGuest(new Uint8Array(3000));
  const output = new SlowOutput();
  // Room for one record of two.
  const saver = saverOf(guest, output, guest.maxBatch * PAGE);
  const dirty = new Bitmap(guest.p2mSize);
  await guest.startDirtyLog();
  await saver.copyAll(dirty);
  for (let pfn = 0; pfn < 2 * guest.maxBatch; pfn++) guest.write(pfn, 5);
  await guest.takeDirty(dirty);
  expect(saver.lastCopyMs(dirty.count())).toBeUndefined();
  expect(saver.lastCopyMs(10)).toBeGreaterThanOrEqual(0);
  const last = await saver.copyLast(dirty, 1);
  expect(last).toBe(2 * guest.maxBatch);
  const { writtenStopped, end } = await saver.finish();
  expect(writtenStopped).toBe(last);
  expect(output.end).toBe(end);
  await saver.writeKept();
  expect(output.end).toBe(end);
  expectGuest(guest, output);
});

test('if all pages count as dirty, all existing ones are appended again', async () => {
  const guest = new FakeGuest(new Uint8Array(3000).fill(XTAB, 2500));
  const output = new SlowOutput();
  const saver = saverOf(guest, output);
  const dirty = new Bitmap(guest.p2mSize);
  await saver.copyAll(dirty);
  for (let pfn = 0; pfn < 2500; pfn += 3) guest.write(pfn, 9);
  dirty.or(allOnes(guest.p2mSize));
  await saver.copyLast(dirty, 1);
  await saver.finish();
  await saver.writeKept();
  const all = expectGuest(guest, output);
  // Those that never were are not mentioned.
  expect(all.some(({ pfn }) => pfn >= 2500)).toBe(false);
});

test('a page that the suspended guest lacks is an error, and writing has ended', async () => {
  const guest = new FakeGuest(new Uint8Array(3000));
  const output = new SlowOutput();
  guest.beforeCopy = async (pfns) => {
    if (pfns.includes(2999)) guest.setType(2999, XTAB);
  };
  await expect(saverOf(guest, output).copyAll()).rejects.toMatchObject({ code: 'PAGE_UNMAPPABLE' });
  const { end } = output;
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(output.end).toBe(end);
});

test('an output that fails ends the stream', async () => {
  const guest = new FakeGuest(new Uint8Array(3000));
  const output = new SlowOutput();
  guest.beforeCopy = async (pfns) => {
    output.fail = pfns.includes(2999);
  };
  await expect(saverOf(guest, output).copyAll()).rejects.toBeInstanceOf(OutputError);
});
