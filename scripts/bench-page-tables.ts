/**
 * Measures what normalising the page tables of a 1 GiB PV guest costs: node scripts/run.mjs
 * scripts/bench-page-tables.ts. It measures processor time, which does not depend on what else the machine
 * does, and for comparison that of writing 1 GiB from memory to a file, the minimum that a save costs.
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FrameTable } from '../src/xenctrl/pv/frame-table.ts';
import { PageTables } from '../src/xenctrl/pv/page-table.ts';

const PFNS = 262_144;
const FIRST_MFN = 0x80000;
const MFNS = FIRST_MFN + PFNS;
/**
 * Number of tables: Linux has 512 for its view of 1 GiB, and the processes have their own. In the lab's guest
 * they are 0.5 % of its pages.
 */
const TABLES = 1311;
const NOTHING = 0xffffffff;
const CHUNK = 4 * 1024 * 1024;
const ROUNDS = 5;

function cpuMs(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

function median(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
}

/**
 * Measures normalising.
 * @param scattered whether neighbours in the guest are far apart on the host, the worst case for the
 * processor's caches
 */
function normalising(scattered: boolean): number {
  const m2p = new Uint32Array(2 * MFNS).fill(NOTHING);
  const p2m = new Uint32Array(2 * PFNS);
  for (let pfn = 0; pfn < PFNS; pfn++) {
    const mfn = FIRST_MFN + (scattered ? (pfn * 7919) % PFNS : pfn);
    p2m[2 * pfn] = mfn;
    m2p.set([pfn, 0], 2 * mfn);
  }
  const tables = new PageTables(
    new FrameTable([m2p], 2 ** 25, MFNS, 8),
    new FrameTable([p2m], 2 ** 19, PFNS, 8),
    4,
    NOTHING,
  );
  const pages = Array.from({ length: TABLES }, (_, i) => {
    const words = new Uint32Array(1024);
    for (let at = 0; at < 512; at++) {
      const mfn = p2m[2 * ((i * 512 + at) % PFNS)] ?? 0;
      words.set([(mfn << 12) | 0x67, (mfn >>> 20) | 0x80000000], 2 * at);
    }
    return words;
  });
  return median(
    Array.from({ length: ROUNDS }, () => {
      const copies = pages.map((page) => page.slice());
      return cpuMs(() => {
        for (const copy of copies)
          if (tables.normalise(copy, 1) !== undefined) throw new Error('not normalised');
      });
    }),
  );
}

function writing(): number {
  const directory = mkdtempSync(join(tmpdir(), 'xlsnap-bench-'));
  const memory = new Uint8Array(CHUNK).fill(1);
  try {
    const fd = openSync(join(directory, 'memory'), 'w');
    try {
      return cpuMs(() => {
        for (let at = 0; at < PFNS * 4096; at += CHUNK) writeSync(fd, memory, 0, CHUNK, at);
      });
    } finally {
      closeSync(fd);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const write = writing();
console.log(`writing 1 GiB: ${write.toFixed(0)} ms`);
for (const scattered of [false, true]) {
  const ms = normalising(scattered);
  const share = ((100 * ms) / (ms + write)).toFixed(1);
  console.log(
    `${TABLES} full page tables, mfns ${scattered ? 'scattered' : 'in order'}: ${ms.toFixed(1)} ms, ${share} % of both`,
  );
}
