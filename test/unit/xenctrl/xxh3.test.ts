/** Tests sums by libxxhash. */
import { xxhash3 } from 'hash-wasm';
import { expect, test } from 'vitest';
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
