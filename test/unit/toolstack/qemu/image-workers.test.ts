import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { findImageWorker } from '../../../../src/toolstack/qemu/image-workers.ts';
import { tempDir } from '../../../support/temp.ts';

it('the qemu-img that was started on an image is found, and no other', async () => {
  await using proc = await tempDir();
  const run = (pid: string, ...args: string[]): void => {
    mkdirSync(join(proc.path, pid));
    writeFileSync(join(proc.path, pid, 'cmdline'), args.map((arg) => `${arg}\0`).join(''));
  };
  mkdirSync(join(proc.path, 'self'));
  mkdirSync(join(proc.path, '12'));
  run('100', 'tail', '/x/a.qcow2');
  run('101', '/usr/bin/qemu-img', 'snapshot', '-q', '-a', 's1', '/x/b.qcow2');
  run('102', 'qemu-img', 'snapshot', '-q', '-a', '/x/a.qcow2.old', '/x/c.qcow2');
  const names = ['/x/a.qcow2', 'json:{"file":"/x/a.qcow2"}'];
  expect(await findImageWorker(names, proc.path)).toBeUndefined();
  run('103', 'qemu-img', 'snapshot', '-q', '-a', 's1', 'json:{"file":"/x/a.qcow2"}');
  expect(await findImageWorker(names, proc.path)).toBe(103);
});
