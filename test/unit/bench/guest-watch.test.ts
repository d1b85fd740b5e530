import { expect, test } from 'vitest';
import { GuestWatch, type Look, pauseAfter, stopOf } from '../../../src/bench/guest-watch.ts';
import { toDomid } from '../../../src/core/brand.ts';
import type { DomainState } from '../../../src/snapshot/ports.ts';

/** Samples of 2 ms that begin at the given times; `S` saw the guest stopped. */
function looks(...seen: readonly (readonly [number, 'R' | 'S'])[]): Look[] {
  return seen.map(([from, what]) => ({ from, to: from + 2, stopped: what === 'S' }));
}

test('a stop begins and ends between two samples', () => {
  const stop = stopOf(looks([100, 'R'], [110, 'R'], [120, 'S'], [180, 'S'], [200, 'R'], [300, 'R']), 50);
  // The stop began at 110 to 122 and ended at 180 to 202.
  expect(stop?.startSeconds).toBeCloseTo(0.066, 9);
  expect(stop?.seconds).toBeCloseTo(0.075, 9);
  expect(stop?.plusMinusSeconds).toBeCloseTo(0.017, 9);
});

test('several stops count together', () => {
  const stop = stopOf(looks([0, 'R'], [8, 'S'], [18, 'R'], [28, 'S'], [38, 'R']), 0);
  expect(stop?.seconds).toBeCloseTo(0.019, 9);
});

test.each([
  ['none', looks([0, 'R'], [10, 'R'])],
  ['one that began before', looks([0, 'S'], [10, 'R'])],
  ['one that has not ended', looks([0, 'R'], [10, 'S'])],
  ['no look', []],
])('%s is not reported', (_, seen) => {
  expect(stopOf(seen, 0)).toBeUndefined();
});

test('a domain is sampled until the watch ends, and only changes are kept', async () => {
  const states = [
    {},
    {},
    {},
    { paused: true },
    { shutdown: 'suspend' },
    { shutdown: 'suspend' },
    {},
  ] as const;
  let at = 0;
  let over = (): void => {};
  const all = new Promise<void>((resolve) => {
    over = resolve;
  });
  const domainState = async (): Promise<DomainState> => {
    if (at === states.length + 20) over();
    return { paused: false, shutdown: undefined, ...states[at++] } as DomainState;
  };
  await using watch = new GuestWatch({ domainState }, toDomid(7));
  await all;
  const seen = await watch.end();
  expect(seen.map(({ stopped }) => stopped)).toEqual([false, false, true, true, false, false]);
  const looked = at;
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(at).toBe(looked);
});

test('a sample that fails is reported at the end', async () => {
  const domainState = (): Promise<never> => Promise.reject(new Error('no xenstore'));
  await using watch = new GuestWatch({ domainState }, toDomid(7));
  await expect(watch.end()).rejects.toThrow('no xenstore');
});

test('a short stop is sampled every millisecond, a long one less and less often', () => {
  expect([0, 50, 100, 300, 1000, 60_000].map(pauseAfter)).toEqual([1, 1, 1, 3, 10, 10]);
});
