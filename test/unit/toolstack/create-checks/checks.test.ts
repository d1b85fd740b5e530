import { chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { BlockDevice, BlockNode } from '../../../../src/qmp/commands.ts';
import {
  deviceModelObstacles,
  migrationObstacles,
  suspendObstacles,
} from '../../../../src/toolstack/create-checks/checks.ts';
import { foreignDrives } from '../../../../src/toolstack/create-checks/foreign-drives.ts';
import { readSuspendFeature } from '../../../../src/toolstack/create-checks/suspend-feature.ts';
import { blockNode } from '../../../support/block-node.ts';
import { tempDir } from '../../../support/temp.ts';

const store = (nodes: Record<string, string> = {}) => ({
  readMaybe: (path: string) => Promise.resolve(nodes[path.replace('/local/domain/5/', '')]),
});
const codes = (found: readonly { code: string }[]): string[] => found.map(({ code }) => code);

describe('the device model of an HVM guest', () => {
  test.each([
    ['by its configuration', { b_info: { device_model_stubdomain: 'True' } }, {}],
    ['by xenstore', {}, { 'image/device-model-domid': '6' }],
  ])('is refused in a stub domain, %s', async (_, config, nodes) => {
    expect(codes(await deviceModelObstacles(5, 'hvm', config, store(nodes)))).toEqual(['STUB_DOMAIN']);
  });

  test.each([
    ['device_model_user=qemu-g1', { device_model_user: 'qemu-g1' }],
    ['dm_restrict=1', { dm_restrict: 'True' }],
  ])('is refused with %s', async (why, build) => {
    const [found] = await deviceModelObstacles(5, 'hvm', { b_info: build }, store());
    expect(found).toMatchObject({ code: 'DEVICE_MODEL_USER', message: expect.stringContaining(why) });
  });

  test('is refused if it runs as a user other than root, whatever the configuration says', async () => {
    await using proc = await tempDir();
    mkdirSync(join(proc.path, '77'));
    const found = () =>
      deviceModelObstacles(5, 'hvm', {}, store({ 'image/device-model-pid': '77' }), proc.path);
    if (process.getuid?.() !== 0) return;
    expect(await found()).toEqual([]);
    const asRoot = { b_info: { device_model_user: 'nobody' } };
    const pid = store({ 'image/device-model-pid': '77' });
    expect(await deviceModelObstacles(5, 'hvm', asRoot, pid, proc.path)).toEqual([]);
    chownSync(join(proc.path, '77'), 65534, 65534);
    expect(await found()).toMatchObject([
      { code: 'DEVICE_MODEL_USER', message: expect.stringContaining('its user is 65534') },
    ]);
  });

  test('is accepted with device_model_user=root', async () => {
    expect(await deviceModelObstacles(5, 'hvm', { b_info: { device_model_user: 'root' } }, store())).toEqual(
      [],
    );
  });

  test.each(['pvh', 'pv'] as const)('does not matter to a %s guest', async (type) => {
    const config = { b_info: { dm_restrict: 'True', device_model_stubdomain: 'True' } };
    expect(await deviceModelObstacles(5, type, config, store())).toEqual([]);
  });
});

test('a device whose state QEMU cannot save is refused, unlike an image that it cannot migrate', () => {
  expect(
    migrationObstacles([
      'non-migratable device: 0000:00:04.0/nvme',
      "The vpc format used by node '#block102' does not support live migration",
      "Migration is disabled when using feature 'peer mode' in device 'ivshmem'",
    ]).map(({ message }) => message),
  ).toEqual([
    expect.stringContaining('non-migratable device: 0000:00:04.0/nvme'),
    expect.stringContaining('ivshmem'),
  ]);
});

describe('what a guest announces about suspending', () => {
  test.each([
    ['a Linux that can', { 'control/feature-suspend': '1', 'control/feature-poweroff': '1' }, 'announced'],
    [
      'one without hibernation',
      { 'control/feature-suspend': '', 'control/feature-poweroff': '1' },
      'missing',
    ],
    ['one that can reboot only', { 'control/feature-reboot': '1' }, 'missing'],
    [
      'libxl’s empty nodes alone',
      { 'control/feature-suspend': '', 'control/feature-poweroff': '' },
      'silent',
    ],
    ['nothing', {}, 'silent'],
  ])('%s', async (_, nodes, expected) => {
    expect(await readSuspendFeature(store(nodes), 5)).toBe(expected);
    expect(codes(await suspendObstacles(5, store(nodes)))).toEqual(
      expected === 'missing' ? ['NO_SUSPEND'] : [],
    );
  });
});

describe("drives that are not in the domain's configuration", () => {
  const drive = (fields: Partial<BlockNode>, device = 'n0'): BlockDevice => ({
    device,
    qdev: undefined,
    inserted: blockNode('#block1', '/srv/n.img', { driver: 'raw', ...fields }),
  });
  const disk = { vdev: 'xvda', node: 'xvda-qcow2', path: '/srv/a.qcow2' };

  test('are named if the guest writes to them', () => {
    expect(foreignDrives([drive({})], [disk])).toEqual([{ name: 'n0', path: '/srv/n.img' }]);
    expect(foreignDrives([drive({ nodeName: 'own' }, '')], [disk])).toEqual([
      { name: 'own', path: '/srv/n.img' },
    ]);
  });

  test('are not the emulated drives of disks whose device a script makes', () => {
    const drbd = [{ vdev: 'hda', node: undefined, path: 'r0' }];
    const emulated = drive({ file: '/dev/drbd0' }, 'ide0-hd0');
    expect(foreignDrives([emulated], drbd, true)).toEqual([]);
    expect(foreignDrives([emulated], drbd, false)).toHaveLength(1);
    expect(foreignDrives([drive({})], drbd, true)).toHaveLength(1);
  });

  test.each([
    ['read-only ones', drive({ readOnly: true })],
    ['an empty drive', { device: 'ide1-cd0', qdev: undefined, inserted: undefined }],
    ['the disk itself', drive({ nodeName: 'xvda-qcow2', driver: 'qcow2', file: '/elsewhere' }, '')],
    ['its emulated drive', drive({ file: '/srv/a.qcow2' }, 'ide0-hd0')],
    ['an overlay on it', drive({ file: '/srv/o.qcow2', backingFiles: ['/srv/a.qcow2'] }, '')],
  ])('are not %s', (_, one) => {
    expect(foreignDrives([one], [disk])).toEqual([]);
  });
});
