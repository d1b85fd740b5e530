/** Files that are reserved, and removed by what was noted of them. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { removeReserved, reserveFile } from '../../../src/core/files.ts';
import { tempDir } from '../../support/temp.ts';

test('a reserved file is removed by its inode number, twice without harm', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'o.qcow2');
  const noted: number[] = [];
  const inode = await reserveFile(path, { mark: 'ab12', note: (one) => void noted.push(one) });
  expect(noted).toEqual([inode]);
  expect(await removeReserved(path, { mark: 'ab12', inode })).toBe(true);
  writeFileSync(path, 'theirs');
  expect(await removeReserved(path, { mark: 'ab12', inode: inode + 1 })).toBe(false);
  expect(readFileSync(path, 'utf8')).toBe('theirs');
});

test('a journal of an earlier version, which reserved nothing, removes nothing that has a name like a reserved file', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'o.qcow2');
  writeFileSync(`${path}.new-`, 'theirs');
  expect(await removeReserved(path, { mark: '', inode: undefined })).toBe(false);
  expect(existsSync(`${path}.new-`)).toBe(true);
});
