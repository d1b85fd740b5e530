/** Files that allocate pages before their content are read as what they are. */
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { compareFiles } from '../../../src/memfile/compare.ts';
import { inspectFile } from '../../../src/memfile/inspect.ts';
import { verifyFile } from '../../../src/memfile/verify.ts';
import { FakeGuest } from '../../../src/testing/fake-guest.ts';
import { tempDir } from '../../support/temp.ts';
import { writeSlots, writeStream } from '../../support/whole-file.ts';

const XTAB = 15;
/** 6 MiB, of which the first 2 MiB have a hole. */
const PAGES = 3 * 512 - 32;
const types = (): Uint8Array => new Uint8Array(5000).fill(XTAB, 160, 192).fill(XTAB, 3 * 512);
const guestOf = (): FakeGuest => new FakeGuest(types(), (pfn) => pfn % 10 === 0);

let directory: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  directory = await tempDir();
});
afterEach(() => directory[Symbol.asyncDispose]());
const path = (name: string): string => join(directory.path, name);

test('verify finds them sound, and counts pages with data', async () => {
  await writeSlots(guestOf(), path('slots'));
  const report = await verifyFile(path('slots'));
  expect(report.pages).toBe(PAGES);
  // One that allocates, and two with pages.
  expect(report.records.find(({ name }) => name === 'PAGE_DATA')?.count).toBe(1 + 2);
});

test('inspect shows pages by their content, and how many superpages there will be', async () => {
  await writeSlots(guestOf(), path('slots'));
  await writeStream(guestOf(), path('stream'));
  for (const file of ['slots', 'stream']) {
    const { sound, memory } = await inspectFile(path(file));
    expect({ file, sound }).toEqual({ file, sound: true });
    expect(memory).toMatchObject({ pages: PAGES, repeated: 0, types: { NOTAB: PAGES }, superpages: 2 });
  }
});

test('a PV guest has no superpages', async () => {
  const guest = guestOf();
  guest.streamType = 'pv';
  await writeSlots(guest, path('pv'));
  expect((await inspectFile(path('pv'))).memory).toMatchObject({ pages: PAGES, superpages: 0 });
});

test('compare finds no difference between a file with them and a stream without', async () => {
  await writeSlots(guestOf(), path('slots'));
  await writeStream(guestOf(), path('stream'));
  const other = guestOf();
  other.write(700, 12345);
  await writeSlots(other, path('other'));
  const none = { changed: 0, onlyA: 0, onlyB: 0 };
  expect((await compareFiles(path('slots'), path('stream'))).total).toEqual({ same: PAGES, ...none });
  expect((await compareFiles(path('slots'), path('other'))).total).toEqual({
    ...none,
    same: PAGES - 1,
    changed: 1,
  });
});
