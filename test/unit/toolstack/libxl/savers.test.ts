import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { findSaver } from '../../../../src/toolstack/libxl/savers.ts';
import { tempDir } from '../../../support/temp.ts';

function process(proc: string, pid: string, comm: string, ...args: string[]): void {
  mkdirSync(join(proc, pid));
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
  expect(await findSaver(7, proc.path)).toBeUndefined();
  process(proc.path, '103', 'libxl-save-help', helper, '--save-domain', '9', '-1', '7', '1', '12', '0');
  expect(await findSaver(7, proc.path)).toBe(103);
});
