/** Disk snapshots on a file system without room. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.ts';
import type { DiskAction } from '../../src/snapshot/ports.ts';
import { QemuDeviceModel } from '../../src/toolstack/qemu/device-model.ts';
import { matchDisks, readBlockFacts } from '../../src/toolstack/qemu/disks.ts';
import { QemuImages } from '../../src/toolstack/qemu/images.ts';
import { makeImage, output, startQemu, xenDisk } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
const at = (name: string): string => join(directory.path, name);
const full = (name: string): string => join(at('full'), name);
const VDEVS = ['xvda', 'xvdb'];

beforeEach(async () => {
  directory = await tempDir();
});
afterEach(async () => {
  spawnSync('umount', [at('full')]);
  await directory[Symbol.asyncDispose]();
});

/** A small file system of its own. @returns why there is none */
async function mountSmall(): Promise<string | undefined> {
  await mkdir(at('full'));
  spawnSync('truncate', ['-s', '8M', at('file-system')]);
  spawnSync('mkfs.ext4', ['-q', '-O', '^has_journal', '-m', '0', at('file-system')]);
  const { status, stderr } = spawnSync('mount', ['-o', 'loop', at('file-system'), at('full')], {
    encoding: 'utf8',
  });
  return status === 0 ? undefined : `mount -o loop: ${stderr.trim()}`;
}

const actions: Record<string, DiskAction[]> = {
  internal: VDEVS.map((vdev) => ({ kind: 'internal', vdev, tag: 's1' })),
  external: [
    { kind: 'internal', vdev: 'xvda', tag: 's1' },
    { kind: 'external', vdev: 'xvdb', path: '' },
  ],
};

it.for(Object.keys(actions))(
  'a disk whose storage is full leaves no snapshot of any disk: %s',
  async (kind, { skip }) => {
    const obstacle = await mountSmall();
    if (obstacle !== undefined) {
      console.warn(`skipped: ${obstacle}`);
      return skip(obstacle);
    }
    // The first disk has room, and comes first in the transaction.
    const images = [await makeImage(at('a.qcow2')), await makeImage(full('b.qcow2'))];
    for (const image of images) await output('qemu-io', '-f', 'qcow2', '-c', 'write 0 1M', image);
    spawnSync('dd', ['if=/dev/zero', `of=${full('filler')}`, 'bs=4k'], { stdio: 'ignore' });
    await using qemu = await startQemu(
      directory.path,
      VDEVS.flatMap((vdev, i) => xenDisk(vdev, images[i] ?? '')),
    );
    const config = VDEVS.map((vdev, i) => ({
      vdev,
      path: images[i],
      format: 'qcow2',
      writable: true,
      cdrom: false,
    }));
    const client = await QmpClient.connect(qemu.socket);
    const disks = matchDisks(config, [], await readBlockFacts(client));
    await using model = new QemuDeviceModel(client, disks, { timeoutMs: 30_000 });
    const wanted = (actions[kind] ?? []).map((action) =>
      action.kind === 'external' ? { ...action, path: full('overlay.qcow2') } : action,
    );
    await expect(model.snapshotDisks(wanted)).rejects.toThrow(/no space left/i);
    expect(await model.undoSnapshots(wanted)).toEqual([]);
    expect(existsSync(full('overlay.qcow2'))).toBe(false);
    const now = images.map((image) => new QemuImages().info(image, 'qcow2'));
    expect((await Promise.all(now)).map((info) => info?.tags)).toEqual([[], []]);
    expect(VDEVS.map((vdev) => model.imageOf(vdev))).toEqual(images);
  },
);
