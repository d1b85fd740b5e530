/**
 * Saves a simulated guest of 64 GiB, live, to nowhere, and prints the process's largest resident set in bytes, to
 * measure the memory for bookkeeping. Runs as a program of its own.
 */
import { peakResident } from '../../src/bench/processes.ts';
import { Bitmap } from '../../src/core/bitmap.ts';
import { PAGE_KIND } from '../../src/core/page-kind.ts';
import { FileSaver } from '../../src/snapshot/memory/file-saver.ts';
import type { Guest } from '../../src/snapshot/ports.ts';

const PAGES = 16 * 1024 * 1024;
const HOLE = 0x10000;

/** Every third page is zeros, and there is a hole below. */
const guest: Pick<
  Guest,
  'p2mSize' | 'streamType' | 'maxBatch' | 'pageTypes' | 'pageTypesFrom' | 'packPages' | 'readPages'
> = {
  p2mSize: PAGES + HOLE,
  streamType: 'hvm',
  maxBatch: 1024,
  pageTypes: async (pfns) => new Uint8Array(pfns.length),
  pageTypesFrom: async (first, count) => new Uint8Array(count).fill(first < HOLE ? 15 : 0),
  packPages: async (_fd, pfns, _position, makeHead) => {
    const kinds = pfns.map((pfn) => (pfn % 3 === 0 ? PAGE_KIND.zero : PAGE_KIND.data));
    makeHead(Uint8Array.from(kinds));
    return { kinds: Uint8Array.from(kinds), written: Promise.resolve(undefined) };
  },
  readPages: async (pfns) => new Uint8Array(pfns.length),
};

const output = {
  fd: -1,
  writeAt: async () => {},
  noteWrite: () => {},
  written: async () => {},
  mayWrite: async () => {},
  beginSync: () => {},
};
const saver = new FileSaver(guest as Guest, output, 8192, { expectedPages: PAGES });
const dirty = new Bitmap(guest.p2mSize);
await saver.copyAll(dirty);
for (let pfn = HOLE; pfn < guest.p2mSize; pfn += 100) dirty.set(pfn);
await saver.copyDirty(dirty, 1);
for (let pfn = HOLE; pfn < guest.p2mSize; pfn += 5000) dirty.set(pfn);
saver.readyToKeep(dirty.count());
await saver.copyLast(dirty, 2);
const { pages } = await saver.finish();
await saver.writeKept();
if (pages !== PAGES) throw new Error(`${pages} pages`);
// Not getrusage's: that is at least the size of the process that started this one.
console.log(peakResident(process.pid));
