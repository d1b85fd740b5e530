/** Tests which clean pages are copied with dirty ones. */
import { expect, test } from 'vitest';
import { fillGaps } from '../../../../src/snapshot/memory/fill-gaps.ts';

const PAGE = 4096;

/** Dirty pages that are far from all others, so that so many clean ones may be copied too. */
function withBudget(pfns: readonly number[], clean: number): Uint32Array {
  const far = Array.from(
    { length: Math.ceil((clean + 0.5) / 0.15) - pfns.length },
    (_, i) => 10_000 + 1000 * i,
  );
  return Uint32Array.from([...pfns, ...far]);
}

const near = (pages: Uint32Array): readonly number[] => [...pages].filter((pfn) => pfn < 10_000);
const inOrder = (pfn: number): number => pfn * PAGE;

test('a gap is filled with the clean pages that are in it', () => {
  expect(near(fillGaps(withBudget([10, 12, 16, 17], 4), inOrder))).toEqual([10, 11, 12, 13, 14, 15, 16, 17]);
});

test('the smallest gaps are filled first, as far as 15 % of the dirty pages go', () => {
  expect(near(fillGaps(withBudget([10, 14, 20, 22, 30, 32], 2), inOrder))).toEqual([
    10, 14, 20, 21, 22, 30, 31, 32,
  ]);
  const every2nd = Uint32Array.from({ length: 1000 }, (_, i) => 2 * i);
  expect(fillGaps(every2nd, inOrder)).toHaveLength(1150);
});

test('pages are in the order of the file, where zeros are behind data', () => {
  // Of 20 pages those with odd numbers were zeros.
  const offsetOf = (pfn: number): number => (pfn < 20 ? (pfn % 2) * 10 + Math.floor(pfn / 2) : pfn) * PAGE;
  const pages = near(fillGaps(withBudget([4, 5, 8, 9], 2), offsetOf));
  expect(pages).toEqual([4, 6, 8, 5, 7, 9]);
});

test('a gap that is not of pages, long, or between pages that are far apart in the guest stays', () => {
  // The head of a record takes two pages.
  const head = (pfn: number): number => (pfn < 12 ? pfn : pfn + 2) * PAGE;
  expect(near(fillGaps(withBudget([11, 12], 2), head))).toEqual([11, 12]);
  expect(near(fillGaps(withBudget([10, 26], 20), inOrder))).toEqual([10, 26]);
  const hole = (pfn: number): number => (pfn < 100 ? pfn : pfn - 900) * PAGE;
  expect(near(fillGaps(withBudget([99, 1001], 2), hole))).toEqual([99, 1001]);
});

test('pages without a place are first, ascending, and have no neighbours', () => {
  const offsetOf = (pfn: number): number => (pfn === 11 || pfn === 13 ? -1 : pfn * PAGE);
  expect(near(fillGaps(withBudget([10, 11, 13, 14], 4), offsetOf))).toEqual([11, 13, 10, 14]);
});

test('without dirty pages there is nothing to copy', () => {
  expect(fillGaps(new Uint32Array(0), inOrder)).toHaveLength(0);
});
