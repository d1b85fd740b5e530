import { linkSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { userOf } from '../../../../src/snapshot/images/chain.ts';
import { FakeHost } from '../../../../src/testing/fake-host.ts';
import { type KernelRoots, kernelUsers } from '../../../../src/toolstack/kernel/image-users.ts';
import { imagesInUse } from '../../../../src/toolstack/libxl/images-in-use.ts';
import { XenstoreClient } from '../../../../src/xenstore/client.ts';
import { FakeXenstored } from '../../../../src/xenstore/testing.ts';
import { fastDirectory } from '../../../support/scene.ts';

let directory: string;
let roots: KernelRoots;
beforeEach(() => {
  directory = fastDirectory('xlsnap-kernel-');
  roots = { sys: join(directory, 'sys'), proc: join(directory, 'proc') };
  write('proc/self/mountinfo', '21 26 0:20 / /proc rw,relatime - proc proc rw\n');
  write('proc/swaps', 'Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n');
  mkdirSync(join(roots.sys, 'class/block'), { recursive: true });
});
afterEach(() => rmSync(directory, { recursive: true }));

function write(path: string, text: string): void {
  mkdirSync(dirname(join(directory, path)), { recursive: true });
  writeFileSync(join(directory, path), text);
}

/** Adds a block device, as sysfs shows it: a partition is in the directory of its disk. */
function device(name: string, number: string, files: Readonly<Record<string, string>> = {}): void {
  const own = `sys/devices/${name}`;
  write(`${own}/dev`, `${number}\n`);
  for (const [file, text] of Object.entries(files)) write(`${own}/${file}`, text);
  symlinkSync(join(directory, own), join(roots.sys, 'class/block', name.split('/').at(-1) ?? ''));
}

const loop = (n: number, file: string, ro = '0'): void =>
  device(`loop${n}`, `7:${n}`, { 'loop/backing_file': `${file}\n`, ro: `${ro}\n` });

const found = async (): Promise<readonly string[]> =>
  (await kernelUsers(new Map(), roots)).map(({ holder, path }) => `${holder}: ${path}`).sort();

it('a loop device has its file open, also one that is only read', async () => {
  loop(0, '/srv/a file.img');
  loop(1, '/srv/cd.iso', '1');
  device('loop2', '7:2');
  expect(await kernelUsers(new Map(), roots)).toEqual([
    {
      path: '/srv/a file.img',
      format: 'raw',
      domid: undefined,
      holder: '/dev/loop0',
      writable: true,
      release: 'detach it (losetup -d /dev/loop0)',
    },
    expect.objectContaining({ path: '/srv/cd.iso', holder: '/dev/loop1', writable: false }),
  ]);
});

it('a file that was removed has left its name to others; one may be called so', async () => {
  loop(0, '/srv/a.img (deleted)');
  expect(await found()).toEqual([]);
  write('b (deleted)', '');
  loop(1, join(directory, 'b (deleted)'));
  expect(await found()).toEqual([`/dev/loop1: ${directory}/b (deleted)`]);
});

it('a block device has the holders that are built on it', async () => {
  device('sdb', '8:16', { 'holders/dm-3/dm/name': 'vg-lv\n', 'holders/md0/dev': '9:0\n' });
  device('cciss!c0d0', '104:0', { 'holders/dm-4/dm/name': 'c\n' });
  expect(await found()).toEqual([
    '/dev/mapper/c: /dev/cciss/c0d0',
    '/dev/mapper/vg-lv: /dev/sdb',
    '/dev/md0: /dev/sdb',
  ]);
});

it('a mounted device is in use, under the name that the kernel has for it', async () => {
  device('dm-3', '253:3');
  write(
    'proc/self/mountinfo',
    [
      '26 1 253:3 / / rw shared:1 - ext4 /dev/root rw',
      '27 1 253:3 /srv /mnt/a\\040b rw - ext4 /dev/root rw',
      '28 1 0:40 / /data rw master:2 propagate_from:1 - btrfs /dev/sdc rw',
      '29 1 0:41 / /net rw - nfs server:/dev/x rw',
      '',
    ].join('\n'),
  );
  expect(await found()).toEqual(['the file system at /: /dev/dm-3', 'the file system at /data: /dev/sdc']);
});

it('the command that unmounts is one to paste', async () => {
  device('sdc', '8:32');
  write('proc/self/mountinfo', '27 1 8:32 / /mnt/a\\040b rw - ext4 /dev/sdc rw\n');
  expect(await kernelUsers(new Map(), roots)).toMatchObject([
    { holder: 'the file system at /mnt/a b', release: "unmount it (umount '/mnt/a b')" },
  ]);
});

it('swap is a user of files and devices', async () => {
  write(
    'proc/swaps',
    'Filename Type Size Used Priority\n/dev/sdd\tpartition 1 0 -2\n/swap\\040file file 1 0 -3\n',
  );
  expect(await found()).toEqual(['swap: /dev/sdd', 'swap: /swap file']);
});

it('whoever uses a partition uses its disk, and the other way round', async () => {
  device('sdb', '8:16');
  device('sdb/sdb1', '8:17', { partition: '1\n', 'holders/dm-3/dm/name': 'crypt\n' });
  device('sdb/sdb2', '8:18', { partition: '2\n' });
  expect(await found()).toEqual(['/dev/mapper/crypt: /dev/sdb', '/dev/mapper/crypt: /dev/sdb1']);
  const domain = { domid: 4, holder: 'domain web1 (domid 4)', writable: true };
  const uses = await kernelUsers(new Map([['8:16', domain]]), roots);
  expect(uses.filter(({ domid }) => domid === 4).map(({ path }) => path)).toEqual([
    '/dev/sdb',
    '/dev/sdb1',
    '/dev/sdb2',
  ]);
});

it('a machine that shows nothing has no users', async () => {
  const nowhere = { sys: join(directory, 'none'), proc: join(directory, 'none') };
  expect(await kernelUsers(new Map(), nowhere)).toEqual([]);
});

it('a device that blkback serves counts as its domain, and so does the file of its loop device', async () => {
  loop(10, '/srv/web1.raw');
  loop(11, '/srv/else.raw');
  device('dm-26', '253:26');
  const vbd = (domid: number, devid: number, backend: string): Record<string, string> => ({
    [`/local/domain/${domid}/name`]: `web${domid}`,
    [`/libxl/${domid}/device/vbd/${devid}/backend`]: backend,
  });
  const own = '/local/domain/0/backend/vbd/4/51712';
  const thick = '/local/domain/0/backend/vbd/4/51728';
  const elsewhere = '/local/domain/2/backend/vbd/5/51712';
  await using server = await FakeXenstored.listen(join(directory, 'socket'), {
    ...vbd(4, 51712, own),
    [`${own}/params`]: '/srv/link-to-web1.raw',
    [`${own}/mode`]: 'w',
    [`${own}/physical-device`]: '7:a',
    ...vbd(4, 51728, thick),
    [`${thick}/params`]: 'vg/lv',
    [`${thick}/mode`]: 'r',
    [`${thick}/physical-device`]: 'fd:1a',
    ...vbd(5, 51712, elsewhere),
    [`${elsewhere}/params`]: '/dev/x',
    [`${elsewhere}/physical-device`]: '7:b',
  });
  await using xenstore = await XenstoreClient.connect({ path: server.path });
  const domain = 'domain web4 (domid 4)';
  const uses = await imagesInUse(xenstore, roots);
  expect(uses).toContainEqual({
    path: '/srv/web1.raw',
    format: 'raw',
    domid: 4,
    holder: domain,
    writable: true,
  });
  expect(uses.map(({ path, holder }) => `${holder}: ${path}`)).toEqual(
    expect.arrayContaining([
      `${domain}: /srv/link-to-web1.raw`,
      `${domain}: /dev/dm-26`,
      '/dev/loop11: /srv/else.raw',
      'domain web5 (domid 5): /dev/x',
    ]),
  );
  expect(uses.find(({ path }) => path === '/dev/dm-26')?.writable).toBe(false);
});

it('an image is known by its inode, whatever its users call it', async () => {
  write('image', 'x');
  write('else', 'x');
  const at = (name: string): string => join(directory, name);
  linkSync(at('image'), at('hard'));
  symlinkSync(at('image'), at('soft'));
  const host = new FakeHost({ directory, disks: [] });
  for (const name of ['image', 'hard', 'soft']) {
    host.kernelUsers.clear();
    host.kernelUsers.set('/dev/loop0', at(name));
    expect(await userOf(host, at('image')), name).toMatchObject({ holder: '/dev/loop0' });
    expect(await userOf(host, at('else')), name).toBeUndefined();
  }
});
