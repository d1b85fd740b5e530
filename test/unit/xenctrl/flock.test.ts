import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { lockFile } from '../../../src/xenctrl/flock.ts';
import { tempDir } from '../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  directory = await tempDir();
});
afterEach(() => directory[Symbol.asyncDispose]());
const at = (name: string): string => join(directory.path, name);

it('a lock does not follow a symbolic link, to a file or to nothing', async () => {
  await writeFile(at('shadow'), 'root:secret\n');
  await symlink(at('shadow'), at('link'));
  await symlink(at('none'), at('dangling'));
  for (const name of ['link', 'dangling']) {
    await expect(lockFile(at(name), 0)).rejects.toMatchObject({ code: 'LOCK' });
  }
  expect(await readFile(at('shadow'), 'utf8')).toBe('root:secret\n');
  await expect(stat(at('none'))).rejects.toMatchObject({ code: 'ENOENT' });
});

it('a lock does not truncate an existing file, and can write one line to it', async () => {
  await writeFile(
    at('lock'),
    'left by one that was killed, longer than any line that takes its place, as it is\n',
  );
  await using lock = await lockFile(at('lock'), 0);
  expect((await stat(at('lock'))).size).toBe(81);
  await lock.note('1234567 snapshot-create');
  await lock.note('12 recover');
  expect((await readFile(at('lock'), 'utf8')).split('\n')[0]?.trimEnd()).toBe('12 recover');
});

it('a lock is not inherited by programs that are started under it', async () => {
  await using _lock = await lockFile(at('lock'), 0);
  const fd = readdirSync('/proc/self/fd').find((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`) === at('lock');
    } catch {
      return false;
    }
  });
  const [, flags = ''] = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')) ?? [];
  const O_CLOEXEC = 0o2000000;
  expect(Number.parseInt(flags, 8) & O_CLOEXEC).toBe(O_CLOEXEC);
});
