import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { installXlWrapper, isXlWrapper, removeXlWrapper } from '../../../../src/toolstack/xl/wrapper.ts';
import { tempDir } from '../../../support/temp.ts';

// A real sh runs the wrapper; the real xl and xlsnap are scripts that print what they got.

let directory: Awaited<ReturnType<typeof tempDir>>;
let prefix = '';
let wrapper = '';
let real = '';
let xlsnap = '';
const path = process.env['PATH'] ?? '';

async function program(file: string, text: string): Promise<void> {
  await writeFile(file, `#!/bin/sh\n${text}\n`);
  await chmod(file, 0o755);
}

beforeEach(async () => {
  directory = await tempDir();
  prefix = join(directory.path, 'local');
  wrapper = join(prefix, 'sbin', 'xl');
  // A name that the shell would split into words.
  await mkdir(join(directory.path, "the real 'ones'"));
  real = join(directory.path, "the real 'ones'", 'xl');
  xlsnap = join(directory.path, "the real 'ones'", 'xlsnap');
  await mkdir(join(prefix, 'sbin'), { recursive: true });
  const tell = `printf '%s:' "\${0##*/}" "$@"; cat; exit 42`;
  await program(real, tell);
  await program(xlsnap, tell);
  process.env['PATH'] = `${join(prefix, 'sbin')}:${join(directory.path, "the real 'ones'")}:${path}`;
});

afterEach(async () => {
  process.env['PATH'] = path;
  await directory[Symbol.asyncDispose]();
});

describe('an installed wrapper', () => {
  test('reports which program gets what', async () => {
    expect(await installXlWrapper(prefix, xlsnap)).toEqual({ path: wrapper, xl: real, xlsnap, warnings: [] });
    expect(await isXlWrapper(wrapper)).toBe(true);
    expect((await stat(wrapper)).mode & 0o777).toBe(0o755);
    expect(await readdir(join(prefix, 'sbin'))).toEqual(['xl']);
  });

  test.each([
    ['xlsnap', ['snapshot-create', 'guest 1', '--name', "it's"]],
    ['xlsnap', ['snapshot-revert', 'g', '/x y.cfg']],
    ['xlsnap', ['snapshot-list', '--json']],
    ['xlsnap', ['snapshot-delete', 'g', 'a b']],
    ['xl', ['list', '-l', '', '*', '$HOME']],
    ['xl', []],
    ['xl', ['-v', 'snapshot-create']],
    ['xlsnap', ['help', 'snapshot-create']],
    ['xl', ['help', 'list']],
    ['xl', ['help']],
    ['xl', ['snapshot-created']],
  ])('passes to %s %j and standard input, and returns its exit code', async (who, args) => {
    await installXlWrapper(prefix, xlsnap);
    const { status, stdout, stderr } = spawnSync('xl', args, { input: 'input', encoding: 'utf8' });
    expect({ status, stdout, stderr }).toEqual({
      status: 42,
      stdout: [who, ...args, 'input'].join(':'),
      stderr: '',
    });
  });

  test('passes a signal on, since it is the process itself', async () => {
    await program(real, `trap 'exit 7' TERM; echo $$; while :; do sleep 0.05; done`);
    await installXlWrapper(prefix, xlsnap);
    const child: ChildProcess = spawn('xl', ['console', 'g'], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [said] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
    expect(Number(said.toString())).toBe(child.pid);
    child.kill('SIGTERM');
    expect(await once(child, 'close')).toEqual([7, null]);
  });

  test('is replaced by a newer one, and still wraps the real xl', async () => {
    await installXlWrapper(prefix, '/bin/true');
    expect(await installXlWrapper(prefix, xlsnap)).toMatchObject({ xl: real, xlsnap });
    expect(spawnSync('xl', ['snapshot-create']).status).toBe(42);
  });

  test('can be removed', async () => {
    await installXlWrapper(prefix, xlsnap);
    expect(await removeXlWrapper(prefix)).toEqual({ path: wrapper, removed: true });
    expect(await readdir(join(prefix, 'sbin'))).toEqual([]);
    expect(await removeXlWrapper(prefix)).toEqual({ path: wrapper, removed: false });
  });

  test('causes a warning if PATH does not find it first', async () => {
    process.env['PATH'] = `${join(directory.path, "the real 'ones'")}:${path}`;
    const { warnings } = await installXlWrapper(prefix, xlsnap);
    expect(warnings).toEqual([`in PATH ${real} comes first: put ${join(prefix, 'sbin')} before it`]);
  });
});

describe('an installation', () => {
  test('neither replaces nor removes a file of another program', async () => {
    await program(wrapper, 'echo mine');
    await expect(installXlWrapper(prefix, xlsnap)).rejects.toMatchObject({ code: 'NOT_OURS', exitCode: 12 });
    await expect(removeXlWrapper(prefix)).rejects.toMatchObject({ code: 'NOT_OURS' });
    expect(await readFile(wrapper, 'utf8')).toBe('#!/bin/sh\necho mine\n');
  });

  test('is refused without a real xl', async () => {
    process.env['PATH'] = join(prefix, 'sbin');
    await expect(installXlWrapper(prefix, xlsnap)).rejects.toMatchObject({
      code: 'NO_PROGRAM',
      exitCode: 13,
    });
    expect(await readdir(join(prefix, 'sbin'))).toEqual([]);
  });

  test('is refused without an xlsnap that can be run', async () => {
    await expect(installXlWrapper(prefix, join(directory.path, 'none'))).rejects.toMatchObject({
      code: 'NO_PROGRAM',
    });
  });

  test('is refused without a directory', async () => {
    const nowhere = join(directory.path, 'nowhere');
    await expect(installXlWrapper(nowhere, xlsnap)).rejects.toMatchObject({
      code: 'WRAPPER',
      hint: `create ${nowhere}/sbin first`,
    });
  });
});
