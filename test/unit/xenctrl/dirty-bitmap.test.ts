import { expect, test } from 'vitest';
import { type CleanedLog, takeBitmap } from '../../../src/xenctrl/dirty-bitmap.ts';

/** Takes from a Xen with these answers; each has the bitmap's byte and the count. */
async function take(...answers: readonly (readonly [number, number])[]) {
  const left = answers.map(
    ([byte, count]): CleanedLog => ({ bitmap: Uint8Array.of(byte, 0, 0, 0, 0, 0, 0, 0), count }),
  );
  const taken = await takeBitmap(() =>
    Promise.resolve(left.shift() ?? expect.unreachable('asked too often')),
  );
  expect(left).toEqual([]);
  return [taken.bitmap[0], taken.whole];
}

test('a bitmap with as many pages as were counted, or more, is complete', async () => {
  expect(await take([0b1011, 3])).toEqual([0b1011, true]);
  expect(await take([0b1011, 2])).toEqual([0b1011, true]);
  expect(await take([0, 0])).toEqual([0, true]);
});

test('a page that was counted too early is found in the next bitmap', async () => {
  expect(await take([0b0011, 3], [0b0100, 0])).toEqual([0b0111, true]);
  expect(await take([0b0011, 3], [0b1100, 1])).toEqual([0b1111, true]);
});

test('pages that were counted and are in neither bitmap are lost', async () => {
  expect(await take([0, 3], [0, 0])).toEqual([0, false]);
  expect(await take([0b0001, 3], [0b0010, 0])).toEqual([0b0011, false]);
  expect(await take([0, 1], [0b0010, 1])).toEqual([0b0010, false]);
});
