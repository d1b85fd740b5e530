import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readTable, writeBack } from '../../../../src/toolstack/storage/write-back.ts';

const CHUNK = 4096;
const PER_AREA = CHUNK / 16;

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'xlsnap-write-back-'));
});
afterEach(() => rmSync(scratch, { recursive: true }));

const at = (name: string): string => join(scratch, name);

/** A store as the kernel writes it, which has these chunks; their contents, which nobody reads from it, are left out. */
function store(
  chunks: readonly number[],
  chunkBytes = CHUNK,
  header: Partial<Record<'magic' | 'valid' | 'version', number>> = {},
) {
  const perArea = chunkBytes / 16;
  const areas = Math.floor(chunks.length / perArea) + 1;
  const bytes = Buffer.alloc((1 + areas * (perArea + 1)) * chunkBytes);
  bytes.writeUInt32LE(header.magic ?? 0x70416e53, 0);
  bytes.writeUInt32LE(header.valid ?? 1, 4);
  bytes.writeUInt32LE(header.version ?? 1, 8);
  bytes.writeUInt32LE(chunkBytes / 512, 12);
  for (const [i, chunk] of chunks.entries()) {
    const area = Math.floor(i / perArea);
    const place = 1 + area * (perArea + 1);
    const entry = place * chunkBytes + (i % perArea) * 16;
    bytes.writeBigUInt64LE(BigInt(chunk), entry);
    bytes.writeBigUInt64LE(BigInt(place + 1 + (i % perArea)), entry + 8);
  }
  writeFileSync(at('store'), bytes);
}

/** A volume whose chunks are filled with a number each. */
function volume(name: string, numbers: readonly number[]): Buffer {
  const bytes = Buffer.concat(numbers.map((number) => Buffer.alloc(CHUNK, number)));
  writeFileSync(at(name), bytes);
  return bytes;
}

describe('what a snapshot has kept', () => {
  it.each([
    ['one chunk', [3]],
    ['no chunk', []],
    ['an area that is exactly full', Array.from({ length: PER_AREA }, (_, i) => i)],
    ['more than one area', Array.from({ length: 2 * PER_AREA + 5 }, (_, i) => 3 * i)],
  ])('is read from its store: %s', async (_what, chunks) => {
    store(chunks);
    expect(await readTable(at('store'))).toEqual({ chunkBytes: CHUNK, chunks });
  });

  it('is written back, and nothing else', async () => {
    const wanted = volume('snapshot', [1, 2, 3, 4]);
    // Chunk 2 differs too, but the store does not say so: as if it had been written to in the meantime.
    volume('origin', [9, 2, 8, 7]);
    store([3, 0]);
    expect(await writeBack(at('snapshot'), at('store'), at('origin'), 4 * CHUNK)).toEqual({
      by: 'table',
      bytes: 2 * CHUNK,
    });
    const now = readFileSync(at('origin'));
    expect([0, 1, 2, 3].map((chunk) => now[chunk * CHUNK])).toEqual([1, 2, 8, 4]);
    store([3, 0, 2]);
    await writeBack(at('snapshot'), at('store'), at('origin'), 4 * CHUNK);
    expect(readFileSync(at('origin')).equals(wanted)).toBe(true);
  });

  it.each([
    ['another magic', { magic: 1 }],
    ['another version', { version: 2 }],
    ['a store that the kernel has given up', { valid: 0 }],
  ])('is found by comparison with %s', async (_what, header) => {
    const numbers = Array.from({ length: 600 }, (_, i) => i % 251);
    const wanted = volume('snapshot', numbers);
    volume(
      'origin',
      numbers.map((number, i) => (i === 5 || i === 599 ? 255 : number)),
    );
    store([], CHUNK, header);
    expect(await writeBack(at('snapshot'), at('store'), at('origin'), wanted.length)).toEqual({
      by: 'comparison',
      bytes: 2 * CHUNK,
    });
    expect(readFileSync(at('origin')).equals(wanted)).toBe(true);
  });

  it('a last chunk that is cut off by the end of the volume is written up to there', async () => {
    const wanted = volume('snapshot', [1, 2, 3]);
    volume('origin', [1, 2, 9]);
    store([1], 2 * CHUNK);
    await writeBack(at('snapshot'), at('store'), at('origin'), 3 * CHUNK);
    expect(readFileSync(at('origin')).equals(wanted)).toBe(true);
  });

  it.each([
    ['a chunk behind the end', () => store([99])],
    ['a store that ends in its table', () => writeFileSync(at('store'), Buffer.alloc(10))],
    ['a volume that is not there', () => rmSync(at('origin'))],
  ])('is an error with %s', async (_what, break_) => {
    volume('snapshot', [1, 2]);
    volume('origin', [1, 2]);
    store([]);
    break_();
    await expect(writeBack(at('snapshot'), at('store'), at('origin'), 2 * CHUNK)).rejects.toMatchObject({
      code: 'WRITE_BACK',
    });
    expect(() => readFileSync(at('nothing'))).toThrow('ENOENT');
  });
});
