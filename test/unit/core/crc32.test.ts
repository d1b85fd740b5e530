import { crc32 } from 'node:zlib';
import { expect, it } from 'vitest';
import { crc32 as chosen, crc32ByTables, crc32OfZeros } from '../../../src/core/crc32.ts';

it.each([0, 1, 2, 3, 7, 8, 255, 4096, 65_537, 4 << 20])('is that of zlib for %d bytes of zeros', (count) => {
  const zeros = new Uint8Array(count);
  expect(crc32OfZeros(count)).toBe(crc32(zeros));
  const before = crc32('something before');
  expect(crc32OfZeros(count, before)).toBe(crc32(zeros, before));
});

it('is the same in one step and in two, beyond 32 bits too', () => {
  const [a, b] = [2 ** 40 + 5, 2 ** 33 + 1];
  expect(crc32OfZeros(a + b, 7)).toBe(crc32OfZeros(b, crc32OfZeros(a, 7)));
});

it.each([0, 1, 7, 8, 9, 15, 16, 17, 4096, 65_537])('by tables is zlib’s for %d bytes', (count) => {
  const bytes = Uint8Array.from({ length: count + 3 }, (_, at) => (at * 2654435761) >>> 13).subarray(3);
  expect(crc32ByTables(bytes)).toBe(crc32(bytes));
  expect(crc32ByTables(bytes, 0xdeadbeef)).toBe(crc32(bytes, 0xdeadbeef));
});

it('is zlib’s own where that has it', () => {
  expect(chosen).toBe(crc32);
});
