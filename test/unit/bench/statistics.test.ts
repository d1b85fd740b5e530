import { expect, test } from 'vitest';
import { summarise } from '../../../src/bench/statistics.ts';

test('quartiles are interpolated, in any order of values', () => {
  expect(summarise([4, 1, 3, 2])).toEqual({
    count: 4,
    min: 1,
    lowerQuartile: 1.75,
    median: 2.5,
    upperQuartile: 3.25,
    max: 4,
  });
  expect(summarise([10, 30, 20])?.median).toBe(20);
});

test('one value is every figure, and no values give nothing', () => {
  expect(summarise([7])).toMatchObject({ count: 1, min: 7, lowerQuartile: 7, median: 7, max: 7 });
  expect(summarise([])).toBeUndefined();
});
