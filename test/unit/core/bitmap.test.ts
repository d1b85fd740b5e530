import { describe, expect, test } from 'vitest';
import { allOnes, Bitmap, countOnes } from '../../../src/core/bitmap.ts';

/** Every seventh bit and some at the edges of words. */
const BITS = [0, 1, 30, 31, 32, 63, 64, 70, 77, 84, 91, 98, 255, 256, 257, 511, 998];

function make(size = 999): Bitmap {
  const bitmap = new Bitmap(size);
  for (const bit of BITS) bitmap.set(bit);
  return bitmap;
}

describe('Bitmap', () => {
  test('has, sets and clears', () => {
    const bitmap = make();
    expect([...bitmap.indices()]).toEqual(BITS);
    expect([...bitmap.indices(32, 96)]).toEqual(BITS.filter((bit) => bit >= 32 && bit < 96));
    expect(BITS.every((bit) => bitmap.has(bit))).toBe(true);
    bitmap.clear(31);
    expect([bitmap.has(30), bitmap.has(31), bitmap.has(32)]).toEqual([true, false, true]);
    bitmap.clearAll();
    expect(bitmap.count()).toBe(0);
  });

  test('has its bits where Xen has them', () => {
    const bitmap = new Bitmap(20);
    bitmap.set(9);
    expect([...bitmap.bytes]).toEqual([0, 2, 0, 0, 0, 0, 0, 0]);
  });

  test('counts all bits, and those below an index', () => {
    const bitmap = make();
    expect(bitmap.count()).toBe(BITS.length);
    for (let index = 0; index <= 998; index++) {
      expect(bitmap.countBelow(index), `below ${index}`).toBe(BITS.filter((bit) => bit < index).length);
    }
    expect(bitmap.countBelow(300, 64)).toBe(BITS.filter((bit) => bit >= 64 && bit < 300).length);
  });

  test('lists full words', () => {
    const bitmap = new Bitmap(64);
    for (let i = 0; i < 64; i++) bitmap.set(i);
    expect([bitmap.count(), [...bitmap.indices()].length]).toEqual([64, 64]);
  });

  test('is not disturbed by a bit cleared at its index, or one set behind it', () => {
    const bitmap = make();
    const seen: number[] = [];
    for (const bit of bitmap.indices()) {
      seen.push(bit);
      bitmap.clear(bit);
      if (bit > 0) bitmap.set(0);
    }
    expect(seen).toEqual(BITS);
    expect([...bitmap.indices()]).toEqual([0]);
  });

  test('takes over the bits of another', () => {
    const bitmap = new Bitmap(999);
    bitmap.set(5);
    bitmap.or(make().bytes);
    expect([...bitmap.indices()]).toEqual([...BITS, 5].sort((a, b) => a - b));
    expect(() => bitmap.or(new Uint8Array(8))).toThrow(RangeError);
  });

  test.each([-1, 999, 1.5])('bit %d is refused', (bit) => {
    expect(() => make().set(bit)).toThrow(RangeError);
  });

  test.each([-1, 1.5, 2 ** 41])('size %d is refused', (size) => {
    expect(() => new Bitmap(size)).toThrow(RangeError);
  });

  test.each([0, 1, 7, 8, 63, 64, 65, 999])('%d bits are set, and no others', (size) => {
    const bitmap = new Bitmap(size);
    bitmap.or(allOnes(size));
    expect([...bitmap.indices()]).toEqual(Array.from({ length: size }, (_, bit) => bit));
    expect(countOnes(bitmap.bytes)).toBe(size);
  });

  test('counts the bits of bytes', () => {
    expect(countOnes(make().bytes)).toBe(BITS.length);
  });
});
