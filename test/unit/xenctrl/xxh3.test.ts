/** Tests sums by libxxhash. */
import { randomBytes } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { xxhash3 } from 'hash-wasm';
import { expect, test, vi } from 'vitest';
import { checksumFile } from '../../../src/memfile/checksums.ts';
import { NativeXxh3 } from '../../../src/xenctrl/xxh3.ts';

const hash = await NativeXxh3.make();

test.skipIf(hash === undefined)(
  'sums by libxxhash are those by WebAssembly, one after the other',
  async () => {
    if (hash === undefined) throw new Error('libxxhash is not installed');
    const bytes = Uint8Array.from({ length: 700_000 }, (_, i) => (i * 7919) >>> 5);
    expect(hash.take()).toBe(await xxhash3(''));
    for (const piece of [1, 100, 4096, 600_000]) {
      for (let at = 0; at < bytes.length; at += piece * 50) hash.update(bytes.subarray(at, at + piece * 50));
      expect(hash.take()).toBe(await xxhash3(bytes));
    }
    hash[Symbol.dispose]();
    hash[Symbol.dispose]();
    expect(() => hash.update(bytes)).toThrow('closed');
  },
);

test.skipIf(hash === undefined)(
  'a file with zeros between and behind data has the same checksums with either',
  async () => {
    const directory = mkdtempSync(join(tmpdir(), 'xlsnap-xxh3-'));
    const path = join(directory, 'file');
    const data = randomBytes(300_000);
    data.fill(0, 100_000, 180_000);
    writeFileSync(path, data);
    truncateSync(path, 1_000_000);
    const fd = openSync(path, 'r');
    const shape = { head: 4096, stretch: 65_536 };
    try {
      const expected = await checksumFile(fd, 1_000_000, shape);
      const open: NativeXxh3[] = [];
      const dispose = vi.spyOn(NativeXxh3.prototype, Symbol.dispose);
      const xxh3 = async () => {
        const made = await NativeXxh3.make();
        if (made !== undefined) open.push(made);
        return made;
      };
      expect(await checksumFile(fd, 1_000_000, shape, { xxh3 })).toEqual(expected);
      await expect(checksumFile(fd, 1_000_001, shape, { xxh3 })).rejects.toThrow(RangeError);
      expect(open).toHaveLength(2);
      expect(dispose.mock.contexts).toEqual(open);
      dispose.mockRestore();
    } finally {
      closeSync(fd);
      rmSync(directory, { recursive: true });
    }
  },
);
