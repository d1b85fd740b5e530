import {
  appendFileSync,
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { xxhash3 } from 'hash-wasm';
import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../../src/config/parse.ts';
import { InterruptedError } from '../../../src/core/errors.ts';
import { lengthWithoutZeros } from '../../../src/core/zeros.ts';
import { checksumFile, STRETCH } from '../../../src/memfile/checksums.ts';
import { findDamage } from '../../../src/memfile/compare-checksums.ts';
import { type Manifest, readManifest } from '../../../src/memfile/manifest.ts';
import { MemoryFileError, verifyFile } from '../../../src/memfile/verify.ts';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { FakeGuest } from '../../../src/testing/fake-guest.ts';
import { FakeHost } from '../../../src/testing/fake-host.ts';
import {
  join as concat,
  cpuPolicy,
  hvmState,
  libxcHeaders,
  pageData,
  record,
  saveFile,
} from '../../support/naive-stream.ts';
import { tempDir } from '../../support/temp.ts';

const MiB = 1 << 20;

/** Takes a snapshot of a simulated guest, and returns its memory file and manifest. */
async function take(
  directory: string,
  guest = new FakeGuest(),
): Promise<{ path: string; manifest: Manifest; manifestPath: string }> {
  const host = new (class extends FakeHost {
    override readonly guest = guest;
  })({ directory });
  const config = parseConfig(`memory_path="${directory}/s.save"`, 'x');
  const { plan } = await createSnapshot(host, { domain: 'guest1', name: 's', config });
  const { memoryPath: path, manifestPath = '' } = plan;
  const manifest = await readManifest(manifestPath);
  if (manifest === undefined) throw new Error('no manifest');
  return { path, manifest, manifestPath };
}

function turn(fd: number, at: number, bit: number): void {
  const byte = new Uint8Array(1);
  readSync(fd, byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ (1 << bit);
  writeSync(fd, byte, 0, 1, at);
}

/** Flips one bit of a file while `body` runs. */
async function withFlip<T>(path: string, bit: number, body: () => Promise<T>): Promise<T> {
  const fd = openSync(path, 'r+');
  const at = Math.floor(bit / 8);
  const flip = (): void => turn(fd, at, bit % 8);
  flip();
  try {
    return await body();
  } finally {
    flip();
    closeSync(fd);
  }
}

describe('a snapshot’s manifest', () => {
  it('has the checksum of each stretch of the memory file, up to its last byte', async () => {
    await using directory = await tempDir();
    const { path, manifest } = await take(directory.path);
    const bytes = readFileSync(path);
    const { head, stretch, sums } = manifest.checksums ?? { head: 0, stretch: 1, sums: '' };
    expect(stretch).toBe(STRETCH);
    expect(bytes.readUInt32LE(head)).toBe(1); // PAGE_DATA begins there.
    const expected = [bytes.subarray(0, head)];
    for (let at = head; at < bytes.length; at += stretch) expected.push(bytes.subarray(at, at + stretch));
    const each = expected.map((part) => xxhash3(part.subarray(0, lengthWithoutZeros(part))));
    expect(sums).toBe((await Promise.all(each)).join(''));
    expect(await findDamage(path, manifest)).toEqual([]);
    expect(await verifyFile(path)).toMatchObject({ checksums: 'right' });
  });

  it('needs 16 digits for 4 MiB', async () => {
    await using directory = await tempDir();
    const pages = 3 * 1024;
    const { manifest, manifestPath } = await take(directory.path, new FakeGuest(new Uint8Array(pages)));
    expect(manifest.checksums?.sums).toHaveLength(16 * 5);
    const { checksums: _, ...rest } = JSON.parse(readFileSync(manifestPath, 'utf8')) as Manifest;
    const others = JSON.stringify(rest, null, 2).length;
    expect(statSync(manifestPath).size - others).toBeLessThan(240);
  });

  it('a manifest can be read without checksums, and then reveals another length only', async () => {
    await using directory = await tempDir();
    const { path, manifest, manifestPath } = await take(directory.path);
    const { checksums: _, ...old } = manifest;
    await writeFile(manifestPath, JSON.stringify(old));
    await withFlip(path, 8 * 100_000, async () => {
      expect(await verifyFile(path)).toMatchObject({ checksums: 'none' });
    });
    appendFileSync(path, 'x');
    expect(await findDamage(path, old)).toMatchObject([{ code: 'MEMORY_CHANGED' }]);
  });
});

describe('a flipped bit', () => {
  it('a flipped bit is found wherever it is, in a file without pages', async () => {
    await using directory = await tempDir();
    const path = join(directory.path, 'small.save');
    const context = concat(
      libxcHeaders(2),
      ...cpuPolicy,
      record(0x10),
      pageData([5, 0xf]),
      ...hvmState,
      record(0),
    );
    const bytes = saveFile(context);
    await writeFile(path, bytes);
    const fd = openSync(path, 'r+');
    const shape = { head: 0, stretch: STRETCH };
    const good = await checksumFile(fd, bytes.length, shape);
    const missed: number[] = [];
    for (let bit = 0; bit < 8 * bytes.length; bit++) {
      turn(fd, bit >> 3, bit & 7);
      if ((await checksumFile(fd, bytes.length, shape)).sums === good.sums) missed.push(bit);
      turn(fd, bit >> 3, bit & 7);
    }
    closeSync(fd);
    expect(missed).toEqual([]);
    expect(bytes.length).toBeGreaterThan(300);
  });

  it('a flipped bit is found by verify in every part of a snapshot, with the record that it is in', async () => {
    await using directory = await tempDir();
    const { path, manifest } = await take(directory.path);
    const size = manifest.memory.bytes;
    const places = [0, 1, 4095, 4096, 8191, 8192, 70_000, 500_001, size - 9, size - 1];
    for (const [i, at] of places.entries()) {
      const error = await withFlip(path, 8 * at + (i % 8), () =>
        verifyFile(path).catch((cause: unknown) => cause),
      );
      expect(error, `${at}`).toBeInstanceOf(MemoryFileError);
      const { findings } = (error as MemoryFileError).data as {
        findings: { code: string; message: string; offset: number }[];
      };
      const sum = findings.find(({ code }) => code === 'CHECKSUM');
      expect(sum?.offset, `${at}`).toBeLessThanOrEqual(at);
      if (at === 500_001) expect(sum?.message).toMatch(/PAGE_DATA at offset \d+ \(pfns 0x0 to 0x14b\)/);
      if (at === 0) expect(sum?.message).toMatch(/^bytes 0 to \d+ are not what was written$/);
    }
    expect(await verifyFile(path)).toMatchObject({ checksums: 'right' });
  });

  it('is found in a file of 64 MiB, and no other stretch is reported', async () => {
    await using directory = await tempDir();
    const path = join(directory.path, 'large');
    const size = 64 * MiB + 4096 + 100;
    const fd = openSync(path, 'w+');
    for (let at = 0; at < 16; at++) writeSync(fd, new Uint8Array(MiB).fill(at + 1), 0, MiB, at * 4 * MiB);
    ftruncateSync(fd, size);
    const checksums = await checksumFile(fd, size, { head: 4096, stretch: STRETCH });
    const manifest = { memory: { path, bytes: size, pages: 0 }, checksums };
    // Everywhere, at the same places in each run.
    for (let i = 0; i < 10; i++) {
      const at = Math.floor((size - 1) * ((i * 0.618034) % 1));
      turn(fd, at, i % 8);
      const damage = await findDamage(path, manifest);
      const from = at < 4096 ? 0 : 4096 + Math.floor((at - 4096) / STRETCH) * STRETCH;
      expect(damage.map(({ offset }) => offset)).toEqual([from]);
      turn(fd, at, i % 8);
    }
    closeSync(fd);
    expect(await findDamage(path, manifest)).toEqual([]);
  });
});

it('at most 100 stretches are reported one by one', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'file');
  const size = 150 * 65_536;
  await writeFile(path, new Uint8Array(size));
  const sums = 'deadbeef'.repeat(150);
  const checksums = { algorithm: 'crc32', head: 0, stretch: 65_536, sums } as const;
  const damage = await findDamage(path, { memory: { path, bytes: size, pages: 0 }, checksums });
  expect(damage).toHaveLength(101);
  expect(damage.at(-1)?.message).toBe('50 more stretches are not what was written');
});

it('a check ends if it is interrupted, or the file has become shorter', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'file');
  await writeFile(path, new Uint8Array(3 * MiB));
  const fd = openSync(path, 'r');
  const shape = { head: 0, stretch: STRETCH };
  const signal = AbortSignal.abort();
  await expect(checksumFile(fd, 3 * MiB, shape, { signal })).rejects.toThrow(InterruptedError);
  await expect(checksumFile(fd, 5 * MiB, shape)).rejects.toThrow(`the file ends at ${3 * MiB}`);
  closeSync(fd);
});
