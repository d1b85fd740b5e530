import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fakeProgram } from '../support/fake-program.ts';
import { tempDir } from '../support/temp.ts';

const document = readFileSync(join(import.meta.dirname, '../../docs/howto/nightly.md'), 'utf8');

/** The indented block of the document that contains the words. */
function block(words: string): string {
  const blocks = [...document.matchAll(/(?:^ {4}.*\n|^\n(?= {4}))+/gm)].map(([text]) => text);
  const found = blocks.find((text) => text.includes(words)) ?? '';
  return `${found.trim().replaceAll(/^ {4}/gm, '')}\n`;
}

let directory: Awaited<ReturnType<typeof tempDir>>;
let undo: (() => void)[] = [];

beforeEach(async () => {
  directory = await tempDir();
  const log = `${directory.path}/log`;
  writeFileSync(log, '');
  // As much of xlsnap as the script sees: the files that the cfgfile names.
  const take = `echo "xlsnap $*" >> ${log}; eval "$(cat "$3")"; for end in '' .cfg .json; do echo > "$memory_path$end"; done`;
  undo = [
    fakeProgram(directory.path, 'xlsnap', take),
    fakeProgram(directory.path, 'xl', `echo "xl $*" >> ${log}`),
  ];
});

afterEach(async () => {
  for (const one of undo.reverse()) one();
  await directory[Symbol.asyncDispose]();
});

const script = block('#!/bin/sh');
const log = (): string[] => readFileSync(`${directory.path}/log`, 'utf8').trim().split('\n');
const snapshots = (): string[] => readdirSync(join(directory.path, 'guest1')).sort();

function run(...args: string[]) {
  return spawnSync('sh', ['-c', script, 'xlsnap-nightly', ...args], {
    encoding: 'utf8',
    env: { ...process.env, XLSNAP_NIGHTLY_DIR: directory.path },
  });
}

/** Snapshots of earlier nights. */
function former(...days: string[]): void {
  mkdirSync(join(directory.path, 'guest1'));
  for (const day of days) {
    for (const end of ['save', 'save.cfg', 'save.json']) {
      writeFileSync(join(directory.path, 'guest1', `nightly-202001${day}-023000.${end}`), '');
    }
  }
}

describe('docs/howto/nightly.md', () => {
  test('takes a snapshot in the first night', () => {
    expect(run('guest1')).toMatchObject({ status: 0, stderr: '' });
    expect(log()).toEqual([
      expect.stringMatching(/^xlsnap snapshot-create guest1 \S+ --name nightly-\d{8}-\d{6} --live --quiet$/),
    ]);
    expect(snapshots().length).toBe(3);
  });

  test('removes what is older than the newest ones, with its tag', () => {
    former('01', '02', '03');
    writeFileSync(join(directory.path, 'guest1', 'mine.save'), '');
    expect(run('guest1', '2')).toMatchObject({ status: 0, stderr: '' });
    expect(log().slice(1)).toEqual(
      ['01', '02'].map((day) => `xl qemu-monitor-command guest1 delvm nightly-202001${day}-023000`),
    );
    const left = snapshots();
    expect(left.filter((name) => name.startsWith('nightly-2020'))).toEqual(
      ['save', 'save.cfg', 'save.json'].map((end) => `nightly-20200103-023000.${end}`),
    );
    expect(left).toContain('mine.save');
    expect(left.length).toBe(7);
  });

  test('deletes nothing old if the snapshot fails', () => {
    former('01', '02');
    undo.push(fakeProgram(directory.path, 'xlsnap', 'exit 6'));
    expect(run('guest1', '1').status).toBe(6);
    expect(snapshots().length).toBe(6);
  });

  test('keeps files whose tags stay', () => {
    former('01', '02');
    undo.push(fakeProgram(directory.path, 'xl', "echo 'Error: no such snapshot'"));
    const { status, stderr } = run('guest1', '2');
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: 'nightly-20200101-023000: Error: no such snapshot\n',
    });
    expect(snapshots().length).toBe(9);
  });

  test.skipIf(spawnSync('systemd-analyze', ['--version']).status !== 0)(
    'systemd can read its units (skipped: no systemd-analyze here)',
    () => {
      const service = join(directory.path, 'xlsnap-nightly@.service');
      const timer = join(directory.path, 'xlsnap-nightly@.timer');
      // The script is not installed here.
      writeFileSync(service, block('[Service]').replace(/^ExecStart=\S+/m, 'ExecStart=/bin/true'));
      writeFileSync(timer, block('[Timer]'));
      const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', service, timer], {
        encoding: 'utf8',
      });
      expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' });
    },
  );
});
