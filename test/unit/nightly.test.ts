import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fakeProgram } from '../support/fake-program.ts';
import { tempDir } from '../support/temp.ts';

const folder = join(import.meta.dirname, '../../systemd');
const read = (name: string): string => readFileSync(join(folder, name), 'utf8');

let directory: Awaited<ReturnType<typeof tempDir>>;
let undo: (() => void)[] = [];

beforeEach(async () => {
  directory = await tempDir();
  writeFileSync(`${directory.path}/log`, '');
  undo = [fakeProgram(directory.path, 'xlsnap', `echo "xlsnap $*" >> ${directory.path}/log`)];
});

afterEach(async () => {
  for (const one of undo.reverse()) one();
  await directory[Symbol.asyncDispose]();
});

const log = (): string[] => readFileSync(`${directory.path}/log`, 'utf8').trim().split('\n');

function run(...args: string[]) {
  return spawnSync(join(folder, 'xlsnap-nightly'), args, { encoding: 'utf8' });
}

describe('systemd/xlsnap-nightly', () => {
  test.each([
    [['guest1'], 7],
    [['guest1', '2'], 2],
  ])('%j: one snapshot, and all but the newest go', (args, keep) => {
    expect(run(...args)).toMatchObject({ status: 0, stderr: '' });
    expect(log()).toEqual([
      expect.stringMatching(/^xlsnap snapshot-create guest1 --name nightly-\d{8}-\d{6} --live --quiet$/),
      `xlsnap snapshot-delete guest1 --keep ${keep} --prefix nightly- --quiet`,
    ]);
  });

  test('nothing old is deleted when the snapshot fails', () => {
    undo.push(fakeProgram(directory.path, 'xlsnap', `echo "xlsnap $1" >> ${directory.path}/log; exit 6`));
    expect(run('guest1', '1').status).toBe(6);
    expect(log()).toEqual(['xlsnap snapshot-create']);
  });

  test.skipIf(spawnSync('systemd-analyze', ['--version']).status !== 0)(
    'systemd can read its units (skipped: no systemd-analyze here)',
    () => {
      const service = join(directory.path, 'xlsnap-nightly@.service');
      const timer = join(directory.path, 'xlsnap-nightly@.timer');
      // The script is not installed here.
      const text = read('xlsnap-nightly@.service');
      expect(text).toContain('ExecStart=/usr/libexec/xlsnap-nightly %i $KEEP\n');
      writeFileSync(service, text.replace(/^ExecStart=\S+/m, 'ExecStart=/bin/true'));
      writeFileSync(timer, read('xlsnap-nightly@.timer'));
      const { status, stdout, stderr } = spawnSync(
        'systemd-analyze',
        ['verify', '--man=no', service, timer],
        {
          encoding: 'utf8',
        },
      );
      expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' });
    },
  );
});
