import { expect, test } from 'vitest';
import { Gather } from '../../../src/xenctrl/gather.ts';

/** Address and length of each piece. */
function pieces(gather: Gather): [number, number][] {
  const words = new BigUint64Array(gather.entries.slice().buffer);
  return Array.from({ length: gather.count }, (_, i) => [Number(words[2 * i]), Number(words[2 * i + 1])]);
}

test('pieces that follow one another in memory are joined', () => {
  const gather = new Gather(4);
  const high = 0x7fff_ffff_f000;
  gather.add(high - 0x2000, 0x1000);
  gather.add(high - 0x1000, 0x1000);
  gather.add(high + 0x1000, 0x1000);
  gather.add(0x1000, 1);
  expect(pieces(gather)).toEqual([
    [high - 0x2000, 0x2000],
    [high + 0x1000, 0x1000],
    [0x1000, 1],
  ]);
  expect(gather.bytes).toBe(0x3001);
});

test.each([
  [0, [10, 20, 30]],
  [9, [1, 20, 30]],
  [10, [20, 30]],
  [29, [1, 30]],
  [30, [30]],
  [59, [1]],
  [60, []],
])('%i bytes that were written are removed', (bytes, lengths) => {
  const gather = new Gather(3);
  for (const [i, length] of [10, 20, 30].entries()) gather.add(2 ** 40 * (i + 1), length);
  gather.advance(bytes);
  expect(pieces(gather).map(([, length]) => length)).toEqual(lengths);
  expect(gather.bytes).toBe(60 - bytes);
  for (const [address, length] of pieces(gather)) {
    // The end of it is where it was.
    expect(((address + length) % 2 ** 40) / 10).toBe(Math.floor((address + length) / 2 ** 40));
  }
});
