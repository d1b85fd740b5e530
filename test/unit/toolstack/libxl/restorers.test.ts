import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { fifoName, findRestorer } from '../../../../src/toolstack/libxl/restorers.ts';
import { tempDir } from '../../../support/temp.ts';

it.each([
  ['by the file', '/snap/s1.save'],
  ['by the FIFO used instead of it', `/tmp/xlsnap-fifo-aB3/${fifoName('u-1')}`],
])('the xl that restores a domain is found, %s, and no other', async (_how, path) => {
  await using proc = await tempDir();
  const run = (pid: string, ...args: string[]): void => {
    mkdirSync(join(proc.path, pid));
    writeFileSync(join(proc.path, pid, 'cmdline'), args.map((arg) => `${arg}\0`).join(''));
  };
  run('100', 'vi', 'restore', path);
  run('101', 'xl', 'create', path);
  run('102', 'xl', 'restore', '-p', '/snap/s2.save');
  run('103', 'xl', 'restore', '-p', `/tmp/xlsnap-fifo-aB3/${fifoName('u-2')}`);
  expect(await findRestorer('/snap/s1.save', 'u-1', proc.path)).toBeUndefined();
  run('104', '/usr/sbin/xl', 'restore', '-p', path);
  expect(await findRestorer('/snap/s1.save', 'u-1', proc.path)).toBe(104);
});
