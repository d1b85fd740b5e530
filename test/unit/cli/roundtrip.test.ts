import { spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { EXIT } from '../../../src/core/errors.ts';
import * as create from '../../../src/snapshot/create/create.ts';
import * as revert from '../../../src/snapshot/revert/revert.ts';
import { contentOf, FakeHost } from '../../../src/testing/fake-host.ts';
import { tempDir } from '../../support/temp.ts';
import { xlsnap } from './support.ts';

// The command line with the real create and revert, on a fake host.

test('the command that a create prints restores the domain', async () => {
  await using directory = await tempDir();
  const host = new FakeHost({ directory: directory.path, disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
  const world = { calls: { ...create, ...revert }, openHost: () => Promise.resolve(host) };
  const cfgfile = join(directory.path, 'my snap.cfg');
  const overlay = join(directory.path, 'b1.qcow2');
  await writeFile(
    cfgfile,
    `name="it's one"\nmemory_path="${directory.path}/it's.save"\ndisks=[',,xvda', '${overlay},qcow2,xvdb']\n`,
  );
  host.write('at the snapshot');
  const taken = await xlsnap(['snapshot-create', 'guest1', cfgfile], world);
  expect(taken).toMatchObject({ code: 0, stderr: '' });
  host.write('later');

  const command = /^To revert: xlsnap (.*)$/m.exec(taken.stdout)?.[1] ?? '';
  const shell = spawnSync('sh', ['-c', `printf '%s\\n' ${command}`], { encoding: 'utf8' });
  const args = shell.stdout.trimEnd().split('\n');
  expect(args).toEqual(['snapshot-revert', 'guest1', `${directory.path}/it's.save.cfg`]);

  const planned = await xlsnap([...args, '--dry-run'], world);
  expect(planned).toMatchObject({ code: 0, stderr: '' });
  expect(contentOf(join(directory.path, 'xvda.img'))).toBe('later');

  const back = await xlsnap(args, world);
  expect(back).toMatchObject({ code: 0, stderr: '' });
  expect(back.stdout).toMatch(/^Domain guest1 is back at snapshot "it's one": domid \d+, running/);
  expect(contentOf(join(directory.path, 'xvda.img'))).toBe('at the snapshot');
  expect(host.runs).toBe(true);
});

test('everything that prevents a create is reported, with exit code 5', async () => {
  await using directory = await tempDir();
  const host = new FakeHost({ directory: directory.path });
  const world = { calls: { ...create, ...revert }, openHost: () => Promise.resolve(host) };
  const cfgfile = join(directory.path, 's.cfg');
  await writeFile(cfgfile, `memory_path="${cfgfile}"\ndisks=[',,xvdz']\n`);
  const { code, stderr } = await xlsnap(['snapshot-create', 'guest1', cfgfile, '--dry-run'], world);
  expect(code).toBe(EXIT.preflight);
  expect(stderr).toContain('disk xvdz: the domain has no such disk');
  expect(stderr).toContain(`${cfgfile} already exists`);
});

test('a missing domain gives exit code 4', async () => {
  await using directory = await tempDir();
  const host = new FakeHost({ directory: directory.path });
  const world = { calls: { ...create, ...revert }, openHost: () => Promise.resolve(host) };
  const { code, stderr } = await xlsnap(['snapshot-create', 'other'], world);
  expect({ code, opened: stderr.split('\n')[0] }).toEqual({
    code: EXIT.domain,
    opened: 'error: there is no domain other',
  });
});
