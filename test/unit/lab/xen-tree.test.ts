import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { treeRelease } from '../../../lab/releases.ts';
import { readXenTree } from '../../../lab/xen-tree.ts';
import { tempDir } from '../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;

function put(path: string, content: string, mode = 0o644): void {
  const file = join(directory.path, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content, { mode });
}

beforeEach(async () => {
  directory = await tempDir();
  put('boot/xen-4.21.1.gz', '');
  symlinkSync('xen-4.21.1.gz', join(directory.path, 'boot/xen.gz'));
  put('boot/xen-4.21.1.config', '# CONFIG_SHADOW_PAGING is not set\n');
  for (const name of ['xl', 'xenstored', 'xenconsoled']) put(`usr/local/sbin/${name}`, '', 0o755);
  put('usr/local/bin/xenstore-read', '', 0o755);
  put('usr/local/libexec/xen/bin/xen-init-dom0', '', 0o755);
  put('etc/init.d/xl', 'not a program');
  put('usr/local/lib/libxenctrl.so.4.21.0', '');
  put('usr/local/lib/libxencall.so.1.3', '');
  put('usr/local/lib/libxenlight.so.4.21.0', 'x\0/usr/local/lib/xen/bin/qemu-system-i386\0y');
  put('usr/local/lib/python3.11/site-packages/xen/migration/__init__.py', '');
});
afterEach(() => directory[Symbol.asyncDispose]());

test('finds what the lab needs, wherever it was installed', () => {
  const tree = readXenTree(directory.path);
  expect(tree).toMatchObject({
    release: '4.21',
    hypervisor: join(directory.path, 'boot/xen-4.21.1.gz'),
    libraries: ['/usr/local/lib'],
    programs: ['/usr/local/sbin', '/usr/local/libexec/xen/bin', '/usr/local/bin'],
    python: '/usr/local/lib/python3.11/site-packages',
    qemu: '/usr/local/lib/xen/bin/qemu-system-i386',
    shadow: false,
    hvm: false,
  });
  expect(treeRelease(tree)).toMatchObject({ xen: '4.21-tree', programs: tree.programs, shadow: false });
});

test('a file that changes makes it another tree', () => {
  const { fingerprint } = readXenTree(directory.path);
  put('boot/xen-4.21.1.gz', 'rebuilt');
  expect(readXenTree(directory.path).fingerprint).not.toBe(fingerprint);
});

test.each([
  ['boot/xen-4.21.1.gz', 'there is no hypervisor'],
  ['usr/local/sbin/xenstored', 'there is no program xenstored'],
  ['usr/local/lib/libxenctrl.so.4.21.0', 'there is no libxenctrl.so'],
])('without %s it is refused', (path, message) => {
  rmSync(join(directory.path, path));
  expect(() => readXenTree(directory.path)).toThrow(message);
});

test('two hypervisors are refused', () => {
  put('boot/xen-4.20.0.gz', '');
  expect(() => readXenTree(directory.path)).toThrow('there are several hypervisors');
});
