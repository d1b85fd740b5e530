import { describe, expect, test } from 'vitest';
import { NO_FRAME } from '../../../../src/xenctrl/pv/frame-table.ts';
import { PageTables } from '../../../../src/xenctrl/pv/page-table.ts';
import { FLAGS, PvWorld } from '../../../support/pv-world.ts';

const PFNS = 2000;
const COMPAT = 0x321;

function make(width: 4 | 8): { world: PvWorld; tables: PageTables } {
  const world = new PvWorld(width, PFNS);
  const p2m = world.p2m(world.makeLeaves());
  const compat = width === 4 ? COMPAT : NO_FRAME;
  return { world, tables: new PageTables(world.m2p, p2m, world.layout.ptLevels, compat) };
}

/** A table whose entries are the guest's pages, from pfn 0 on. */
function full(world: PvWorld): Uint32Array {
  const table = world.takePage();
  for (let i = 0; i < 512; i++) world.setEntry(table, i, world.mfn(i));
  return world.page(table).slice();
}

function entry(words: Uint32Array, index: number): [number, number] {
  return [words[2 * index] ?? -1, words[2 * index + 1] ?? -1];
}

/** The entry of full(), normalised: its pfn, with its flags unchanged. */
function normal(pfn: number): [number, number] {
  return [((pfn << 12) | FLAGS.low) >>> 0, FLAGS.high];
}

/** Which entries of a normalised full() hold their pfn, and which are empty. */
function slots(words: Uint32Array): { normal: number[]; cleared: number[] } {
  const found = { normal: [] as number[], cleared: [] as number[] };
  for (let i = 0; i < 512; i++) {
    const [low, high] = entry(words, i);
    const [wantedLow, wantedHigh] = normal(i);
    if (low === wantedLow && high === wantedHigh) found.normal.push(i);
    else if (low === 0 && high === 0) found.cleared.push(i);
  }
  return found;
}

const range = (first: number, last: number): number[] =>
  Array.from({ length: last - first + 1 }, (_, i) => first + i);

describe('a 64-bit guest', () => {
  test.each([1, 2, 3])('level %i: every entry gets its pfn, with its flags', (level) => {
    const { world, tables } = make(8);
    const words = full(world);
    expect(tables.normalise(words, level)).toBeUndefined();
    expect(slots(words)).toEqual({ normal: range(0, 511), cleared: [] });
  });

  test("level 4: Xen's own slots are cleared", () => {
    const { world, tables } = make(8);
    const words = full(world);
    // Xen's entries may be anything, such as a frame of its own.
    words.set([0x00003163, 0x00fff000], 2 * 260);
    expect(tables.normalise(words, 4)).toBeUndefined();
    expect(slots(words)).toEqual({
      normal: [...range(0, 255), ...range(272, 511)],
      cleared: range(256, 271),
    });
  });

  test('entries that are not present stay unchanged, whatever is in them', () => {
    const { tables } = make(8);
    const words = new Uint32Array(1024).fill(0xfffffffe);
    const before = words.slice();
    expect(tables.normalise(words, 1)).toBeUndefined();
    expect(words).toEqual(before);
  });

  test('flags above the frame stay: no-execute, protection keys, software bits', () => {
    const { world, tables } = make(8);
    const words = new Uint32Array(1024);
    const mfn = world.mfn(1234);
    words.set([(mfn << 12) | 0xfff, 0xfff00000 | (mfn >>> 20)], 20);
    expect(tables.normalise(words, 1)).toBeUndefined();
    expect(entry(words, 10)).toEqual([((1234 << 12) | 0xfff) >>> 0, 0xfff00000]);
  });
});

describe('a PAE guest', () => {
  test('level 1', () => {
    const { world, tables } = make(4);
    const words = full(world);
    expect(tables.normalise(words, 1)).toBeUndefined();
    expect(slots(words).normal).toHaveLength(512);
  });

  test('level 2 without Xen', () => {
    const { world, tables } = make(4);
    const words = full(world);
    expect(tables.normalise(words, 2)).toBeUndefined();
    expect(slots(words).normal).toHaveLength(512);
  });

  test('level 2 with Xen at its end, known by the first mfn of the m2p for 32-bit guests', () => {
    const { world, tables } = make(4);
    const words = full(world);
    words.set([(COMPAT << 12) | 0xe3, 0], 2 * 428);
    expect(tables.normalise(words, 2)).toBeUndefined();
    expect(slots(words)).toEqual({ normal: range(0, 427), cleared: range(428, 511) });
  });

  test('level 3 has four entries', () => {
    const { world, tables } = make(4);
    const words = full(world);
    words.set([0xffffffff, 0xffffffff], 2 * 300);
    expect(tables.normalise(words, 3)).toBeUndefined();
    expect(slots(words)).toEqual({ normal: range(0, 3), cleared: range(4, 511) });
  });

  test('there is no level 4', () => {
    const { tables } = make(4);
    expect(tables.normalise(new Uint32Array(1024), 4)).toMatchObject({ reason: 'level' });
  });
});

describe('impossible entries', () => {
  test.each([
    ['beyond the host', 'mfn out of range', (world: PvWorld) => [(world.mfnCount << 12) | 1, 0]],
    ['far beyond the host', 'mfn out of range', () => [0xfffff001, 0x000ff]],
    ['beyond 16 TiB', 'mfn out of range', (world: PvWorld) => [(world.mfn(3) << 12) | 1, 0x1000]],
    ['of Xen or of another guest', "not the guest's own page", () => [(5 << 12) | 1, 0]],
  ] as const)('%s', (_what, reason, words) => {
    const { world, tables } = make(8);
    const page = new Uint32Array(1024);
    page.set([...words(world)], 2 * 77);
    expect(tables.normalise(page, 1)).toMatchObject({ level: 1, index: 77, reason });
  });

  test("an mfn whose pfn is beyond the guest's p2m", () => {
    const { world, tables } = make(8);
    world.setM2p(6, PFNS + 1);
    const page = new Uint32Array(1024);
    page.set([(6 << 12) | 1, 0]);
    expect(tables.normalise(page, 1)).toMatchObject({ reason: "not the guest's own page" });
  });

  test("an mfn whose pfn has another mfn in the guest's p2m", () => {
    const { world, tables } = make(8);
    world.setM2p(6, 12);
    const page = new Uint32Array(1024);
    page.set([(6 << 12) | 1, 0]);
    expect(tables.normalise(page, 1)).toMatchObject({ reason: "not the guest's own page", mfn: 6 });
    expect(tables.pfnOf(6)).toBe(NO_FRAME);
    expect(tables.pfnOf(world.mfn(12))).toBe(12);
    expect(tables.pfnOf(NO_FRAME)).toBe(NO_FRAME);
  });

  test('a superpage; in a level 1 that bit is the page attribute table', () => {
    const { world, tables } = make(8);
    const page = new Uint32Array(1024);
    page.set([(world.mfn(3) << 12) | 0x81, 0]);
    expect(tables.normalise(page.slice(), 2)).toMatchObject({ reason: 'superpage', index: 0 });
    expect(tables.normalise(page, 1)).toBeUndefined();
  });
});

test('any page is either normalised or refused', () => {
  const { tables } = make(8);
  let seed = 12345;
  const random = (): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return seed;
  };
  for (let round = 0; round < 200; round++) {
    const words = Uint32Array.from({ length: 1024 }, random);
    const bad = tables.normalise(words, 1 + (round % 4));
    expect(bad === undefined || bad.index < 512).toBe(true);
  }
});
