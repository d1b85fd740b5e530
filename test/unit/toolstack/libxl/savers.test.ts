import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { SaverSearch } from '../../../../src/toolstack/libxl/savers.ts';
import { tempDir } from '../../../support/temp.ts';

function process(proc: string, pid: string, comm: string, ...args: string[]): void {
  mkdirSync(join(proc, pid), { recursive: true });
  writeFileSync(join(proc, pid, 'comm'), `${comm}\n`);
  writeFileSync(join(proc, pid, 'cmdline'), args.map((arg) => `${arg}\0`).join(''));
}

it('the process that saves a domain by libxl is found, and no other', async () => {
  await using proc = await tempDir();
  const helper = '/usr/lib/xen-4.20/bin/libxl-save-helper';
  mkdirSync(join(proc.path, 'self'));
  mkdirSync(join(proc.path, '12'));
  process(proc.path, '100', 'bash', helper, '--save-domain', '9', '-1', '7', '1', '12', '0');
  process(proc.path, '101', 'libxl-save-help', helper, '--restore-domain', '9', '-1', '7', '1', '2', '3');
  process(proc.path, '102', 'libxl-save-help', helper, '--save-domain', '7', '-1', '8', '7', '7', '7');
  expect(await new SaverSearch(proc.path).find(7)).toBeUndefined();
  process(proc.path, '103', 'libxl-save-help', helper, '--save-domain', '9', '-1', '7', '1', '12', '0');
  expect(await new SaverSearch(proc.path).find(7)).toBe(103);
});

it('while the guest is stopped, only processes that may have become one since are looked at', async () => {
  await using proc = await tempDir();
  const helper = '/usr/lib/xen-4.20/bin/libxl-save-helper';
  const saves = [helper, '--save-domain', '9', '-1', '7', '1', '12', '0'] as const;
  const startedAt = (pid: string, ticks: number): void =>
    writeFileSync(join(proc.path, pid, 'stat'), `${pid} (a name) S ${'0 '.repeat(18)}${ticks} 0\n`);
  writeFileSync(join(proc.path, 'uptime'), '1000.00 0.00\n');
  process(proc.path, '50', 'bash');
  startedAt('50', 90_000);
  process(proc.path, '51', 'xl');
  startedAt('51', 99_950);
  process(proc.path, '52', 'unknown age');
  const search = new SaverSearch(proc.path);
  expect(await search.find(7)).toBeUndefined();
  expect(await search.find(7, { onlyNew: true })).toBeUndefined();
  // An old process is left out: looking at it is what takes the time.
  process(proc.path, '50', 'libxl-save-help', ...saves);
  expect(await search.find(7, { onlyNew: true })).toBeUndefined();
  // One that had just been started, one of unknown age, and a new one.
  for (const pid of ['51', '52', '60']) {
    process(proc.path, pid, 'libxl-save-help', ...saves);
    expect(await search.find(7, { onlyNew: true }), pid).toBe(Number(pid));
    process(proc.path, pid, 'ended', ...saves);
  }
  expect(await search.find(7)).toBe(50);
  // It is a helper, so it is not left out.
  expect(await search.find(7, { onlyNew: true })).toBe(50);
});
