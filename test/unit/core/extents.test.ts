import { mkdtemp, open, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type Extent, type Extents, HoleFinder } from '../../../src/core/extents.ts';
import { fileExtents, writtenExtents } from '../../../src/xenctrl/extents.ts';
import { tempDir } from '../../support/temp.ts';

function extentsOf(parts: readonly Extent[]): Extents & { asked: number } {
  return {
    asked: 0,
    from(offset) {
      this.asked++;
      return parts.find(({ end }) => end > offset);
    },
  };
}

test('a piece without data is a hole, in any order of asking', () => {
  const extents = extentsOf([
    { start: 10, end: 20 },
    { start: 30, end: 40 },
  ]);
  const finder = new HoleFinder(extents);
  const pieces = [
    [0, 10, true],
    [0, 11, false],
    [15, 2, false],
    [19, 1, false],
    [20, 10, true],
    [21, 10, false],
    [40, 99, true],
    [2, 3, true],
    [39, 4, false],
  ] as const;
  for (const [offset, length, hole] of pieces) {
    expect(finder.isHole(offset, length), `${offset}+${length}`).toBe(hole);
  }
});

test('the file system is asked once for each part, in ascending order', () => {
  const extents = extentsOf(Array.from({ length: 50 }, (_, i) => ({ start: 100 * i, end: 100 * i + 50 })));
  const finder = new HoleFinder(extents);
  let holes = 0;
  for (let at = 0; at < 5000; at += 10) if (finder.isHole(at, 10)) holes++;
  expect(holes).toBe(250);
  expect(extents.asked).toBeLessThanOrEqual(52);
});

test('real files have holes where nothing was written', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'xlsnap-extents-'));
  const file = await open(join(directory, 'sparse'), 'w+');
  try {
    const MIB = 2 ** 20;
    await file.truncate(4 * MIB);
    await file.write(Buffer.alloc(4096, 1), 0, 4096, 2 * MIB);
    const extents = await fileExtents(file.fd);
    const finder = new HoleFinder(extents);
    expect(finder.isHole(2 * MIB, 4096)).toBe(false);
    // tmpfs, ext4, XFS and btrfs all report holes; a file system that does not reports everything as data.
    expect(finder.isHole(0, MIB)).toBe(true);
    expect(finder.isHole(3 * MIB, MIB)).toBe(true);
    expect(extents.from(4 * MIB)).toBeUndefined();
  } finally {
    await file.close();
    await rm(directory, { recursive: true });
  }
});

test('holes of a file just written are known if the file system reports them correctly; otherwise all is data', async () => {
  await using directory = await tempDir();
  await using file = await open(join(directory.path, 'file'), 'w+');
  await file.write(new Uint8Array(65_536).fill(1), 0, 65_536, 1 << 20);
  await file.truncate(4 << 20);
  const own = [0xef53, 0x58465342, 0x9123683e, 0x01021994].includes((await statfs(directory.path)).type);
  expect((await writtenExtents(file.fd)).from(0)?.start).toBe(own ? 1 << 20 : 0);
  await using other = await open('/proc/self/maps');
  expect((await writtenExtents(other.fd)).from(5)).toEqual({ start: 5, end: Number.POSITIVE_INFINITY });
});
