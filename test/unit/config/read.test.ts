import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readConfigFile } from '../../../src/config/read.ts';

let directory = '';
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'xlsnap-config-'));
});
afterAll(() => rm(directory, { recursive: true }));

test('a file is read, with its path as source', async () => {
  const path = join(directory, 'a.cfg');
  await writeFile(path, 'name="a"');
  expect(await readConfigFile(path)).toEqual({ name: 'a', source: path });
});

test('a missing file, a directory, a huge sparse file and an endless device are errors', async () => {
  const huge = join(directory, 'huge');
  await writeFile(huge, '');
  await truncate(huge, 2 ** 40);
  await expect(readConfigFile(join(directory, 'none'))).rejects.toMatchObject({
    code: 'UNREADABLE',
    message: `${join(directory, 'none')}: there is no such file`,
  });
  await expect(readConfigFile(directory)).rejects.toMatchObject({ code: 'UNREADABLE' });
  await expect(readConfigFile(huge)).rejects.toMatchObject({ code: 'TOO_LONG' });
  await expect(readConfigFile('/dev/zero')).rejects.toMatchObject({ code: 'TOO_LONG' });
});
