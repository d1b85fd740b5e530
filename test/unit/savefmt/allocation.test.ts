import { expect, test } from 'vitest';
import { type AllocatedPages, AllocationLayout } from '../../../src/savefmt/index.ts';
import { pageRecords } from '../../support/page-records.ts';
import { populate } from '../../support/populate.ts';

const PAGE = 4096;

function pages(regions: readonly number[], others: readonly number[]): AllocatedPages {
  return {
    filler: 3,
    wholeRegions: () => regions.values(),
    others: () => others.values(),
  };
}

/** All records, with the file that they are in. */
function made(layout: AllocationLayout, of: AllocatedPages) {
  const file = new Uint8Array(layout.end);
  let next = layout.start;
  for (const { bytes, offset } of layout.records(of)) {
    expect(offset).toBe(next);
    file.set(bytes, offset);
    next += bytes.length;
  }
  expect(next).toBe(layout.end);
  return pageRecords(file, layout.start, layout.end);
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, at) => at);

test('a full record is 1 MiB, and all lengths are multiples of 4096', () => {
  for (const [regions, records] of [
    [0, 0],
    [1, 1],
    [255, 1],
    [256, 2],
    [1000, 4],
  ] as const) {
    const layout = new AllocationLayout(2 * PAGE, regions);
    expect(layout.recordCount).toBe(records);
    expect(layout.end).toBe(2 * PAGE + (regions + records) * PAGE);
  }
  expect(new AllocationLayout(0, 255).end).toBe(2 ** 20);
});

test.each([1, 255, 256, 600])('%i whole regions become as many superpages', (count) => {
  const records = made(new AllocationLayout(PAGE, count), pages(upTo(count), []));
  expect(populate(records)).toEqual({ superpages: upTo(count).map((region) => region * 512), small: [] });
});

test('other pages get what room is left, and fillers allocate nothing', () => {
  const others = upTo(700).map((at) => 10_000 + 2 * at);
  const records = made(new AllocationLayout(PAGE, 3), pages([7], others));
  expect(populate(records)).toEqual({ superpages: [7 * 512], small: others });
  const fillers = records.flat().filter(({ type }) => type === 15);
  expect(fillers.length).toBe(3 * 512 + 510 - 512 - 700);
  expect(new Set(fillers.map(({ pfn }) => pfn))).toEqual(new Set([3]));
});

test('more than there is room for are left out, whole regions last', () => {
  const records = made(new AllocationLayout(PAGE, 2), pages([1, 5, 9], upTo(100_000)));
  const { superpages } = populate(records);
  expect(superpages).toEqual([512, 5 * 512]);
  expect(records.flat().length).toBe(2 * 512 + 510);
});

test('without anything to allocate there are only fillers', () => {
  const records = made(new AllocationLayout(PAGE, 2), pages([], []));
  expect(populate(records)).toEqual({ superpages: [], small: [] });
});

test('pfns of 32 bits are kept', () => {
  const region = 2 ** 23 - 1;
  const [record] = made(new AllocationLayout(PAGE, 1), pages([region], []));
  expect(record?.[511]).toMatchObject({ pfn: 2 ** 32 - 1, type: 14 });
});

test.each([-1, 1.5])('no layout for %s regions', (regions) => {
  expect(() => new AllocationLayout(0, regions)).toThrow(RangeError);
});
