import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { FakeHost } from '../../../src/testing/fake-host.ts';
import { compareMemoryFiles, inspectMemoryFile } from '../../../src/toolstack/memory-file.ts';
import {
  join as bytes,
  hvmState,
  libxcHeaders,
  libxlHeader,
  pageData,
  record,
  xlHeader,
} from '../../support/naive-stream.ts';
import { tempDir } from '../../support/temp.ts';

/** Takes two snapshots of one guest, which wrote to some pages, gave some away and got some in between. */
async function twoSnapshots(directory: string): Promise<{ a: string; b: string; host: FakeHost }> {
  const host = new FakeHost({ directory });
  const take = async (name: string): Promise<string> => {
    const memoryPath = join(directory, `${name}.save`);
    await createSnapshot(host, { domain: 'guest1', config: { name, memoryPath, description: `of ${name}` } });
    return memoryPath;
  };
  const a = await take('a');
  host.guest.write(3, 0xabcdef);
  // From zeros to data, and from data to zeros.
  host.guest.write(10, 7);
  host.guest.write(11, 0);
  host.guest.setType(100, 15);
  host.guest.setType(101, 15);
  host.guest.setType(390, 0);
  const b = await take('b');
  return { a, b, host };
}

test('a snapshot has sizes, domain, memory map, manifest', async () => {
  await using directory = await tempDir();
  const { a } = await twoSnapshots(directory.path);
  const inspection = await inspectMemoryFile(a);
  const { size, blocks } = await stat(a);
  expect(inspection).toMatchObject({
    path: a,
    bytes: size,
    allocatedBytes: 512 * blocks,
    sound: true,
    // The fake's MSR policy has reserved flags.
    findings: [{ severity: 'warning', code: 'RESERVED' }],
    type: 'pvh',
    streamVersion: 3,
    xen: { major: 4, minor: 20 },
    domain: { name: 'guest1', maxMemoryBytes: 128 * 2 ** 20, disks: [{ vdev: 'xvda', format: 'qcow2' }] },
    manifest: { name: 'a', description: 'of a', state: 'running' },
    warnings: [],
  });
  expect(inspection.memory).toEqual({
    pages: 300,
    holes: 30,
    storedZeros: 0,
    types: { NOTAB: 300 },
    repeated: 0,
    superpages: 0,
    read: false,
    holesKnown: true,
    gap: 1,
    ranges: [
      { firstPfn: 0, lastPfn: 199, pages: 200, holes: 20, storedZeros: 0, types: { NOTAB: 200 } },
      { firstPfn: 232, lastPfn: 331, pages: 100, holes: 10, storedZeros: 0, types: { NOTAB: 100 } },
    ],
  });
});

test('two snapshots are compared page by page', async () => {
  await using directory = await tempDir();
  const { a, b } = await twoSnapshots(directory.path);
  const { total, regions, cells, cellPages } = await compareMemoryFiles(a, b);
  expect(total).toEqual({ same: 295, changed: 3, onlyA: 2, onlyB: 1 });
  expect(regions).toEqual([
    { firstPfn: 0, endPfn: 256, same: 219, changed: 3, onlyA: 2, onlyB: 0 },
    { firstPfn: 256, endPfn: 4096, same: 76, changed: 0, onlyA: 0, onlyB: 1 },
  ]);
  const sum = (key: 'same' | 'changed' | 'onlyA' | 'onlyB'): number =>
    cells.reduce((total, cell) => total + cell[key], 0);
  expect({ same: sum('same'), changed: sum('changed'), onlyA: sum('onlyA'), onlyB: sum('onlyB') }).toEqual(
    total,
  );
  expect(cells[0]).toMatchObject({ firstPfn: 0, endPfn: cellPages });
  const back = await compareMemoryFiles(b, a);
  expect(back.total).toEqual({ same: 295, changed: 3, onlyA: 1, onlyB: 2 });
  const self = await compareMemoryFiles(a, a);
  expect(self.total).toEqual({ same: 300, changed: 0, onlyA: 0, onlyB: 0 });
});

test("the layout of the file makes no difference, as with xl's: pages of zeros, and later entries", async () => {
  await using directory = await tempDir();
  const file = async (name: string, ...records: Uint8Array[]): Promise<string> => {
    const path = join(directory.path, name);
    const context = bytes(libxcHeaders(2), record(0x10), ...records, ...hvmState, record(0));
    await writeFile(path, bytes(xlHeader(), libxlHeader, record(1), context, record(0)));
    return path;
  };
  const one = await file('one', pageData([0, 0, 1], [1, 0xf], [2, 0, 0]), pageData([5, 0, 9], [6, 0xe]));
  const other = await file('two', pageData([6, 0xe], [5, 0, 3], [2, 0, 0], [0, 0, 1]), pageData([5, 0, 9]));
  const { total, a, b } = await compareMemoryFiles(one, other);
  expect(total).toEqual({ same: 4, changed: 0, onlyA: 0, onlyB: 0 });
  expect(a.memory).toMatchObject({ pages: 4, repeated: 0, types: { NOTAB: 3, XALLOC: 1 } });
  expect(b.memory).toMatchObject({ pages: 4, repeated: 1 });
  const read = await inspectMemoryFile(one, { readPages: true });
  expect(read.memory).toMatchObject({ read: true, storedZeros: 1 });
});

test('a damaged file has what could be read before the damage', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'cut');
  await writeFile(path, gunzipSync(await readFile('fixtures/savefmt/pvh.xlsave.gz')));
  await truncate(path, 50_000);
  const inspection = await inspectMemoryFile(path);
  expect(inspection).toMatchObject({
    sound: false,
    type: 'pvh',
    domain: { name: 'pvh84' },
    findings: [{ code: 'TRUNCATED' }],
    memory: { pages: 0 },
  });
  await expect(compareMemoryFiles(path, path)).rejects.toMatchObject({ code: 'DAMAGED', exitCode: 9 });
});

test('a manifest of another file is reported', async () => {
  await using directory = await tempDir();
  const { a, b } = await twoSnapshots(directory.path);
  await writeFile(`${a}.json`, (await readFile(`${b}.json`, 'utf8')).replace(/"bytes": \d+/, '"bytes": 1'));
  expect((await inspectMemoryFile(a)).warnings).toEqual([expect.stringContaining('a file of 1 bytes')]);
  await writeFile(`${a}.json`, '{');
  expect(await inspectMemoryFile(a)).toMatchObject({
    manifest: undefined,
    warnings: [expect.stringContaining('is not JSON')],
  });
});
