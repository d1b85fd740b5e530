import { describe, expect, test } from 'vitest';
import { roundOrder } from '../../../src/bench/order.ts';

describe.each([1, 2, 3, 4, 5, 8, 9])('%i paths', (count) => {
  const rounds = Array.from({ length: count % 2 === 0 ? count : 2 * count }, (_, round) =>
    roundOrder(count, round),
  );

  test('each has its turn in each round', () => {
    for (const order of rounds)
      expect([...order].sort()).toEqual(Array.from({ length: count }, (_, at) => at));
  });

  test('each is equally often at each place', () => {
    for (let place = 0; place < count; place++) {
      expect(countsOf(rounds.map((order) => order[place]))).toEqual([rounds.length / count]);
    }
  });

  test('each is equally often after each other', () => {
    const pairs = rounds.flatMap((order) => order.slice(1).map((one, at) => `${order[at]} ${one}`));
    expect(new Set(pairs).size).toBe(count * (count - 1));
    expect(countsOf(pairs).length).toBeLessThan(2);
  });
});

/** Returns how often values occur, each count once. */
function countsOf(values: readonly unknown[]): number[] {
  return [...new Set(values.map((value) => values.filter((other) => other === value).length))];
}
