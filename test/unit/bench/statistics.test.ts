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

test('a median has an interval from six values on, with the most extreme of them that reach 95 %', () => {
  expect(summarise([1, 2, 3, 4, 5])?.interval).toBeUndefined();
  expect(summarise([6, 1, 5, 2, 4, 3])?.interval).toEqual({ lower: 1, upper: 6, confidence: 0.96875 });
  // Tables of the sign test: k = 2 for 10 values, 6 for 20, 40 for 99.
  const upTo = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);
  expect(summarise(upTo(10))?.interval).toMatchObject({ lower: 2, upper: 9 });
  expect(summarise(upTo(10))?.interval?.confidence).toBeCloseTo(0.9785, 4);
  expect(summarise(upTo(20))?.interval).toMatchObject({ lower: 6, upper: 15 });
  expect(summarise(upTo(99))?.interval).toMatchObject({ lower: 40, upper: 60 });
});

test('a 95th percentile needs 20 values', () => {
  const values = Array.from({ length: 20 }, (_, at) => at + 1);
  expect(summarise(values.slice(1))?.p95).toBeUndefined();
  expect(summarise(values)?.p95).toBe(19);
});
