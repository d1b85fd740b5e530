import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { fc, test } from '@fast-check/vitest';
import { xxhash3 } from 'hash-wasm';
import { expect } from 'vitest';
import type { Extent } from '../../src/core/extents.ts';
import { checksumFile, differing, sumsLength } from '../../src/memfile/checksums.ts';
import { tempDir } from '../support/temp.ts';

const KiB = 1024;
/** By other code, of all bytes at once. */
const sumOf = {
  xxh3: (bytes: Uint8Array) => xxhash3(bytes.subarray(0, bytes.findLastIndex((byte) => byte !== 0) + 1)),
  crc32: async (bytes: Uint8Array) => crc32(bytes).toString(16).padStart(8, '0'),
};
/** Parts of a file: lengths of zeros or of other data. */
const parts = fc.array(fc.record({ length: fc.integer({ min: 1, max: 300 * KiB }), zeros: fc.boolean() }), {
  maxLength: 8,
});

test.prop(
  [
    parts,
    fc.integer({ min: 0, max: 200 * KiB }),
    fc.integer({ min: 64 * KiB, max: 400 * KiB }),
    fc.nat(),
    fc.constantFrom('xxh3' as const, 'crc32' as const),
  ],
  {
    numRuns: 60,
  },
)(
  'checksums are those of xxHash and of zlib, with or without known holes, and one changed byte changes only one of them',
  async (list, head, stretch, place, algorithm) => {
    await using directory = await tempDir();
    const shape = { algorithm, head, stretch };
    const size = list.reduce((sum, { length }) => sum + length, 0);
    const bytes = new Uint8Array(size);
    const data: Extent[] = [];
    let end = 0;
    for (const { length, zeros } of list) {
      if (!zeros) {
        bytes.fill((end % 251) + 1, end, end + length);
        data.push({ start: end, end: end + length });
      }
      end += length;
    }
    const fd = openSync(join(directory.path, 'file'), 'w+');
    try {
      writeSync(fd, bytes, 0, size, 0);
      const known = {
        extents: () => Promise.resolve({ from: (at: number) => data.find((part) => part.end > at) }),
      };
      const sums = await checksumFile(fd, size, shape, known);
      expect(await checksumFile(fd, size, shape)).toEqual(sums);
      expect(sums.sums).toHaveLength(sumsLength(size, shape));
      const expected: string[] = [];
      for (let at = 0; at < size; ) {
        const to = at < head ? head : at + stretch;
        expected.push(await sumOf[algorithm](bytes.subarray(at, to)));
        at = to;
      }
      expect(sums.sums).toBe(expected.join(''));
      if (size === 0) return;
      const at = place % size;
      writeSync(fd, Uint8Array.of((bytes[at] ?? 0) ^ 0x40), 0, 1, at);
      const [one, ...others] = differing(size, sums, await checksumFile(fd, size, shape));
      expect(others).toEqual([]);
      expect(at >= (one?.from ?? size) && at < (one?.to ?? 0)).toBe(true);
    } finally {
      closeSync(fd);
    }
  },
);
