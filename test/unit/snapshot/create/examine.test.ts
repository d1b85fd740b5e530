import { describe, expect, test } from 'vitest';
import type { Problem } from '../../../../src/core/problem.ts';
import { examineDomain } from '../../../../src/snapshot/create/examine.ts';

import { FAKE_UUID, FakeHost, type FakeOptions } from '../../../../src/testing/fake-host.ts';
import { tempDir } from '../../../support/temp.ts';

async function examine(
  options: Omit<FakeOptions, 'directory'> = {},
  change: (host: FakeHost) => void = () => {},
  name = 'guest1',
) {
  await using directory = await tempDir();
  const host = new FakeHost({ directory: directory.path, ...options });
  change(host);
  const examination = await examineDomain(host, name, { snapshotDir: directory.path });
  return { examination, calls: host.calls, locked: host.locked };
}

const notQcow2: Problem = { code: 'DISK_NOT_QCOW2', message: 'only qcow2', hint: 'take an external one' };

describe('a domain that can be snapshotted', () => {
  test.each(['pvh', 'hvm'] as const)('%s: everything by default, and nothing is touched', async (type) => {
    const { examination, calls, locked } = await examine({ type });
    expect(examination).toMatchObject({
      domain: 'guest1',
      domid: 7,
      type,
      state: 'running',
      possible: true,
      byDefault: true,
      live: true,
      disks: [{ vdev: 'xvda', format: 'qcow2', volume: true, internal: true, external: true, obstacles: [] }],
      obstacles: [],
      liveObstacles: [],
    });
    const reads = [
      'liveObstacle',
      'memoryObstacle',
      'createFindings',
      'restoreFindings',
      'saver',
      'imagesInUse',
      'findDomain',
      'domainState',
      'domainConfig',
      'disks',
      'info',
      'openDeviceModel',
      'version',
    ];
    expect(calls.filter((call) => !reads.includes(call))).toEqual([]);
    expect(locked).toBe(false);
  });

  test('may be paused by its owner', async () => {
    const { examination } = await examine({ paused: true });
    expect(examination).toMatchObject({ state: 'paused', possible: true });
  });

  test('needs a cfgfile for a raw disk', async () => {
    const { examination } = await examine({
      disks: [{ vdev: 'xvda' }, { vdev: 'xvdb', format: 'raw', internal: [notQcow2] }],
    });
    expect(examination).toMatchObject({ possible: true, byDefault: false, obstacles: [] });
    expect(examination.disks[1]).toMatchObject({ internal: false, external: true, obstacles: [notQcow2] });
  });

  test.each([
    ['PCI devices', { pcidevs: [{ dev: 0 }] }],
    ['the IOMMU', { c_info: { type: 'pvh', name: 'guest1', uuid: FAKE_UUID, passthrough: 'sync_pt' } }],
  ])('can be snapshotted with %s, but not live', async (_what, config) => {
    const { examination } = await examine({}, (host) => {
      host.config = { ...host.config, ...config };
    });
    expect(examination).toMatchObject({
      possible: true,
      live: false,
      liveObstacles: [{ code: 'LIVE_IOMMU' }],
    });
  });
});

test('a PV guest cannot be snapshotted live if Xen has no dirty log for it', async () => {
  const { examination } = await examine({ type: 'pv' }, (host) => {
    host.liveObstacle = { code: 'NO_LIVE', message: 'no shadow paging' };
  });
  expect(examination).toMatchObject({
    type: 'pv',
    possible: true,
    live: false,
    liveObstacles: [{ code: 'NO_LIVE' }],
  });
});

describe('a domain that cannot be snapshotted', () => {
  test.each([
    ['that is not there', () => {}, 'guest2', 'DOMAIN_NOT_FOUND'],
    ['that is dying', (host: FakeHost) => (host.dying = true), 'guest1', 'DOMAIN_NOT_RUNNING'],
    ['that crashed', (host: FakeHost) => (host.shutdown = 'crash'), 'guest1', 'DOMAIN_NOT_RUNNING'],
  ])('is a domain %s', async (_what, change, name, code) => {
    const { examination } = await examine({}, change, name);
    expect(examination).toMatchObject({ possible: false, live: false, obstacles: [{ code }] });
  });

  test("has its disk's obstacles with the disk, and not repeated", async () => {
    const { examination } = await examine({}, (host) => {
      const { disks } = host.toolstack;
      const gone: Problem = { code: 'DISK_BACKEND', message: 'served by the kernel' };
      host.toolstack.disks = async (...args) =>
        (await disks(...args)).map((disk) => ({ ...disk, internal: [gone, notQcow2], external: [gone] }));
    });
    expect(examination).toMatchObject({ possible: false, byDefault: false, live: true, obstacles: [] });
    expect(examination.disks[0]?.obstacles.map(({ code }) => code)).toEqual([
      'DISK_BACKEND',
      'DISK_NOT_QCOW2',
    ]);
  });

  test('is an HVM guest without a QEMU that answers', async () => {
    const { examination } = await examine({ type: 'hvm' }, (host) => {
      host.toolstack.openDeviceModel = () => Promise.resolve(undefined);
    });
    expect(examination).toMatchObject({ possible: false, obstacles: [{ code: 'NO_DEVICE_MODEL' }] });
  });
});
