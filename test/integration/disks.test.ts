import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.ts';
import { type TransactionAction, transaction } from '../../src/qmp/commands.ts';
import {
  externalAction,
  internalAction,
  type ResolvedDisk,
  resolveDisks,
} from '../../src/toolstack/qemu/disks.ts';
import { QemuImages } from '../../src/toolstack/qemu/images.ts';
import { vdevToDevid } from '../../src/toolstack/qemu/vdev.ts';
import { XenstoreClient } from '../../src/xenstore/client.ts';
import { FakeXenstored } from '../../src/xenstore/testing.ts';
import { makeImage, startQemu, xenDisk } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let xenstored: FakeXenstored;
let xenstore: XenstoreClient;
beforeEach(async () => {
  directory = await tempDir();
  xenstored = await FakeXenstored.listen(join(directory.path, 'xenstored'));
  xenstore = await XenstoreClient.connect({ path: xenstored.path });
});
afterEach(async () => {
  await xenstore.close();
  await xenstored[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

const at = (name: string): string => join(directory.path, name);

/** Notes a disk in xenstore as libxl does, and returns its entry in the configuration. */
function attach(vdev: string, file: string, format = 'qcow2'): Record<string, unknown> {
  const devid = vdevToDevid(vdev);
  const backend = `/local/domain/0/backend/qdisk/5/${devid}`;
  xenstored.set(`/libxl/5/device/vbd/${devid}/backend`, backend);
  xenstored.set(`${backend}/params`, `${format === 'raw' ? 'aio' : format}:${file}`);
  xenstored.set(`${backend}/dev`, vdev);
  xenstored.set(`${backend}/mode`, 'w');
  xenstored.set(`${backend}/device-type`, 'disk');
  return { vdev, pdev_path: file, format, backend: 'qdisk', readwrite: 1 };
}

function actions(...some: (TransactionAction | undefined)[]): TransactionAction[] {
  return some.map((action) => {
    if (action === undefined) throw new Error('no node');
    return action;
  });
}

it('snapshots of both kinds are taken of what the guest writes to, repeatedly', async () => {
  const first = await makeImage(at('first, 1:1.qcow2'));
  const second = await makeImage(at('second.raw'), 'raw');
  await using qemu = await startQemu(directory.path, [
    ...xenDisk('xvda', first),
    ...xenDisk('xvdb', second, 'raw'),
  ]);
  await using qmp = await QmpClient.connect(qemu.socket);
  const config = { disks: [attach('xvda', first), attach('xvdb', second, 'raw')] };
  const resolve = async (): Promise<[ResolvedDisk, ResolvedDisk]> => {
    const [a, b] = await resolveDisks(5, config, xenstore, qmp);
    if (a === undefined || b === undefined) throw new Error('disks are missing');
    return [a, b];
  };
  const names: (string | undefined)[][] = [];
  for (const round of [1, 2, 3]) {
    const [a, b] = await resolve();
    names.push([a.node, b.node, b.path]);
    expect(a.internal).toEqual([]);
    expect(b.external).toEqual([]);
    expect(b.internal.map(({ code }) => code)).toEqual(round === 1 ? ['DISK_NOT_QCOW2'] : []);
    const overlay = at(`over${round}.qcow2`);
    await transaction(qmp, actions(internalAction(a, `s${round}`), externalAction(b, overlay)));
  }
  expect(names).toEqual([
    ['xvda-qcow2', 'xvdb-raw', second],
    ['xvda-qcow2', 'xlsnap-xvdb-1', at('over1.qcow2')],
    ['xvda-qcow2', 'xlsnap-xvdb-2', at('over2.qcow2')],
  ]);
  await qmp.close();
  await qemu.quit();
  const images = new QemuImages();
  expect((await images.info(first, 'qcow2'))?.tags).toEqual(['s1', 's2', 's3']);
  expect((await images.info(at('over3.qcow2'), 'qcow2'))?.backing).toBe(at('over2.qcow2'));
  expect((await images.info(at('over1.qcow2'), 'qcow2'))?.backing).toBe(second);
  for (const path of [first, at('over1.qcow2')]) {
    expect(await images.check(path)).toEqual({ corruptions: 0, leaks: 0 });
  }
});

it('an image that an emulated drive has open too is noticed', async () => {
  const image = await makeImage(at('image.qcow2'));
  const drive = ['-drive', `file=${image},if=ide,index=0,media=disk,format=qcow2,file.locking=off`];
  const config = { disks: [attach('hda', image)] };
  {
    await using qemu = await startQemu(directory.path, [...drive, ...xenDisk('hda', image)]);
    await using qmp = await QmpClient.connect(qemu.socket);
    const [disk] = await resolveDisks(5, config, xenstore, qmp);
    expect(disk?.node).toBeUndefined();
    expect(disk?.internal).toMatchObject([
      { code: 'DISK_TWO_NODES', message: expect.stringContaining('ide0-hd0') },
    ]);
  }
  await using qemu = await startQemu(directory.path, drive);
  await using qmp = await QmpClient.connect(qemu.socket);
  const [disk] = await resolveDisks(5, config, xenstore, qmp);
  expect(disk).toMatchObject({ node: expect.stringMatching(/^#block/), internal: [], external: [] });
  if (disk === undefined) return;
  await transaction(qmp, actions(internalAction(disk, 's1')));
  await transaction(qmp, actions(externalAction(disk, at('over.qcow2'))));
  expect(await resolveDisks(5, config, xenstore, qmp)).toMatchObject([
    { node: 'xlsnap-hda-1', path: at('over.qcow2'), overlayNode: 'xlsnap-hda-2', internal: [] },
  ]);
});

it('a block job, a second writer and a missing disk are reported together', async () => {
  const image = await makeImage(at('image.qcow2'));
  const target = await makeImage(at('target.qcow2'));
  const disks = [...xenDisk('xvda', image), ...xenDisk('xvdb', image)];
  await using qemu = await startQemu(directory.path, [
    ...disks,
    '-blockdev',
    JSON.stringify({ driver: 'qcow2', 'node-name': 'target', file: { driver: 'file', filename: target } }),
  ]);
  await using qmp = await QmpClient.connect(qemu.socket);
  // Stays until it gets the command to complete.
  await qmp.execute('blockdev-mirror', {
    'job-id': 'm0',
    device: 'xvda-qcow2',
    target: 'target',
    sync: 'full',
  });
  const config = { disks: [attach('xvda', image), attach('xvdb', image), attach('xvdc', at('gone'))] };
  const codes = (await resolveDisks(5, config, xenstore, qmp)).map((disk) =>
    disk.internal.map(({ code }) => code),
  );
  expect(codes).toEqual([
    ['DISK_SECOND_WRITER', 'DISK_BLOCK_JOB'],
    ['DISK_SECOND_WRITER', 'DISK_BLOCK_JOB'],
    ['DISK_NO_NODE'],
  ]);
});
