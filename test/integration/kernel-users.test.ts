/** The owner check with real loop devices and mounts of this machine. */
import { spawnSync } from 'node:child_process';
import { link, mkdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, type TestContext } from 'vitest';
import { freeImages } from '../../src/snapshot/images/free.ts';
import type { Host } from '../../src/snapshot/ports.ts';
import { imagesInUse } from '../../src/toolstack/libxl/images-in-use.ts';
import { QemuImages } from '../../src/toolstack/qemu/images.ts';
import { XenstoreClient } from '../../src/xenstore/client.ts';
import { FakeXenstored } from '../../src/xenstore/testing.ts';
import { makeImage, output } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let server: FakeXenstored;
let xenstore: XenstoreClient;
const cleanUp: string[][] = [];
beforeEach(async () => {
  directory = await tempDir();
  server = await FakeXenstored.listen(join(directory.path, 'socket'));
  xenstore = await XenstoreClient.connect({ path: server.path });
});
afterEach(async () => {
  for (const [program = '', ...args] of cleanUp.splice(0).reverse()) spawnSync(program, args);
  await xenstore.close();
  await server[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

const at = (name: string): string => join(directory.path, name);
const free = (): ReturnType<typeof freeImages> =>
  freeImages({
    images: new QemuImages(),
    toolstack: { imagesInUse: () => imagesInUse(xenstore) },
  } as unknown as Host);

/** Attaches a file to a free loop device, or skips the test with the reason. */
function attach({ skip }: TestContext, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync('losetup', ['--find', '--show', ...args], {
    encoding: 'utf8',
  });
  if (status !== 0) {
    const reason = `losetup: ${error?.message ?? stderr.trim()}`;
    console.warn(`skipped: ${reason}`);
    skip(reason);
  }
  const device = stdout.trim();
  cleanUp.push(['losetup', '--detach', device]);
  return device;
}

it('an image with a loop device is not changed under any of its names, and is once it is free', async (context) => {
  const image = await makeImage(at('an image.qcow2'));
  await link(image, at('link.qcow2'));
  const loop = attach(context, '--read-only', image);
  const before = await readFile(image);
  for (const name of [image, at('link.qcow2')]) {
    const refused = { code: 'IMAGE_IN_USE', message: expect.stringContaining(`${loop} uses ${image}`) };
    await expect(free().createTag(name, 's1')).rejects.toMatchObject(refused);
    await expect(free().rename(name, at('moved'))).rejects.toMatchObject(refused);
    await expect(free().remove(name)).rejects.toMatchObject({
      ...refused,
      hint: `detach it (losetup -d ${loop}), then run the same command again`,
    });
  }
  expect((await readFile(image)).equals(before)).toBe(true);
  // The loop device still has the file that was removed; this is another one.
  await rm(image);
  await makeImage(image);
  await free().createTag(image, 's1');
  await output('losetup', '--detach', loop);
  await free().createTag(at('link.qcow2'), 's1');
});

it('an overlay with a loop device is not merged into its base', async (context) => {
  const base = await makeImage(at('base.qcow2'));
  const overlay = await makeImage(at('overlay.qcow2'), 'qcow2', '-b', base, '-F', 'qcow2');
  attach(context, overlay);
  await expect(free().commitOverlay(overlay, base)).rejects.toMatchObject({ code: 'IMAGE_IN_USE' });
});

it('the loop device of a domain that blkback serves counts as the domain', async (context) => {
  const image = await makeImage(at('disk.raw'), 'raw');
  const loop = attach(context, image);
  const { rdev } = await stat(loop);
  const backend = '/local/domain/0/backend/vbd/6/51712';
  server.set('/local/domain/6/name', 'web1');
  server.set('/libxl/6/device/vbd/51712/backend', backend);
  server.set(`${backend}/params`, '/elsewhere/disk.raw');
  server.set(`${backend}/physical-device`, `7:${(rdev & 0xff).toString(16)}`);
  for (const used of [image, loop]) {
    await expect(free().remove(used)).rejects.toMatchObject({
      code: 'IMAGE_IN_USE',
      message: expect.stringContaining('domain web1 (domid 6) uses'),
      domid: 6,
    });
  }
});

it('a mounted block device is in use, whatever its node is called', async (context) => {
  const image = await makeImage(at('disk.raw'), 'raw');
  const loop = attach(context, image);
  const { rdev } = await stat(loop);
  await output('mkfs.ext4', '-q', loop);
  const point = at('mount point');
  await mkdir(point);
  await output('mknod', at('node'), 'b', '7', String(rdev & 0xff));
  await output('mount', loop, point);
  cleanUp.push(['umount', point]);
  await expect(free().rename(at('node'), at('moved'))).rejects.toMatchObject({
    code: 'IMAGE_IN_USE',
    message: `the file system at ${point} uses ${loop}`,
    hint: `unmount it (umount '${point}'), then run the same command again`,
  });
});
