import { expect, test } from 'vitest';
import { PAGE_TYPE, PfnWords } from '../../../src/savefmt/page-data.ts';
import { PAGE_STATE, PageMap } from '../../../src/savefmt/page-map.ts';

function add(
  map: PageMap,
  pfns: number[],
  types: number[] = pfns.map(() => 0),
  content: number[] = [],
): void {
  map.add(PfnWords.of(pfns, types), Uint8Array.from(content), 0);
}

test('the last entry counts', () => {
  const map = new PageMap();
  add(map, [1, 2, 3, 4], [0, 0, PAGE_TYPE.xalloc, 0], [0, PAGE_STATE.hole, 0]);
  add(map, [1, 2, 9], [0, PAGE_TYPE.xtab, PAGE_TYPE.xtab], [PAGE_STATE.storedZero]);
  expect(map.counts()).toEqual({ pages: 3, holes: 0, storedZeros: 1, types: { NOTAB: 2, XALLOC: 1 } });
  expect(map.repeated).toBe(1);
  const states = new Uint8Array(2 ** 15);
  map.copyStates(0, states);
  expect([...states.subarray(0, 6)]).toEqual([
    0,
    PAGE_STATE.present | PAGE_STATE.storedZero,
    0,
    PAGE_STATE.present | PAGE_TYPE.xalloc,
    PAGE_STATE.present,
    0,
  ]);
});

test('ranges end where a page is missing, in any order of the entries', () => {
  const map = new PageMap();
  add(map, [40_000, 7, 5, 6, 32_767, 32_768, 40_001], undefined, [0, PAGE_STATE.hole]);
  const { gap, ranges } = map.ranges(10);
  expect(gap).toBe(1);
  expect(ranges.map(({ firstPfn, lastPfn, pages, holes }) => [firstPfn, lastPfn, pages, holes])).toEqual([
    [5, 7, 3, 1],
    [32_767, 32_768, 2, 0],
    [40_000, 40_001, 2, 0],
  ]);
});

test('if there are too many ranges, the closest are joined', () => {
  const map = new PageMap();
  add(map, [0, 2, 4, 100, 102, 5000]);
  const { gap, ranges } = map.ranges(3);
  expect(gap).toBe(2);
  expect(ranges.map(({ firstPfn, lastPfn, pages }) => [firstPfn, lastPfn, pages])).toEqual([
    [0, 4, 3],
    [100, 102, 2],
    [5000, 5000, 1],
  ]);
  expect(map.ranges(1).ranges).toMatchObject([{ firstPfn: 0, lastPfn: 5000, pages: 6 }]);
});

test('pieces that may have pages are listed', () => {
  const map = new PageMap();
  add(map, [2 ** 20 + 5, 3, 2 ** 33]);
  expect([...map.pieces(2 ** 20)]).toEqual([0, 2 ** 20, 2 ** 33]);
});

test('scattered pfns do not use up all memory', () => {
  const map = new PageMap();
  expect(() => {
    for (let i = 0; i < 20_000; i++) add(map, [i * 2 ** 15]);
  }).toThrow(/too far apart/);
  // Absent pages take no memory.
  const absent = new PageMap();
  for (let i = 0; i < 20_000; i++) add(absent, [i * 2 ** 15], [PAGE_TYPE.xtab]);
  expect(absent.counts().pages).toBe(0);
});
