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
