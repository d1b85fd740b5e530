import { expect, test } from 'vitest';
import { PageSet } from '../../../../src/snapshot/memory/page-set.ts';

test('the index of each pfn is known, across blocks without any', () => {
  const pfns = [0, 3, 255, 256, 260, 1023, 5000, 5001, 9999];
  const set = new PageSet(10_000);
  for (const pfn of pfns) set.add(pfn);
  expect(set.count).toBe(pfns.length);
  for (let pfn = 0; pfn < 10_000; pfn++) expect(set.indexOf(pfn)).toBe(pfns.indexOf(pfn));
});

test('only ascending pfns of the p2m are accepted', () => {
  const set = new PageSet(10);
  set.add(3);
  expect(() => set.add(3)).toThrow(RangeError);
  expect(() => set.add(10)).toThrow(RangeError);
});

test('a set is made again from its bits, unless the p2m has become too small', () => {
  const set = new PageSet(5000);
  for (const pfn of [0, 7, 31, 32, 255, 256, 1000, 2999]) set.add(pfn);
  for (const size of [3000, 5000, 70_000]) {
    const same = PageSet.of(set.bits, size);
    expect(same?.count, `p2m of ${size}`).toBe(8);
    for (let pfn = 0; pfn < 3000; pfn++) expect(same?.indexOf(pfn)).toBe(set.indexOf(pfn));
    expect(() => same?.add(2999)).toThrow(RangeError);
  }
  expect(PageSet.of(set.bits, 2999)).toBeUndefined();
  expect(PageSet.of(new Uint8Array(0), 10)?.count).toBe(0);
});
