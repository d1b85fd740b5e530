import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { whileItProgresses } from '../../../src/core/signs-of-life.ts';
import { QmpClient } from '../../../src/qmp/client.ts';
import * as commands from '../../../src/qmp/commands.ts';
import { QmpProtocolError } from '../../../src/qmp/errors.ts';
import { FakeQmpServer } from '../../../src/qmp/testing.ts';
import { tempDir } from '../../support/temp.ts';

/** The answer of QEMU 7.2 for a qdisk after an external snapshot (shortened). */
const inserted = {
  iops_rd: 0,
  'node-name': 'snap1',
  backing_file_depth: 1,
  drv: 'qcow2',
  ro: false,
  encrypted: false,
  file: '/g/overlay.qcow2',
  backing_file: '/g/base.qcow2',
  image: {
    filename: '/g/overlay.qcow2',
    format: 'qcow2',
    'virtual-size': 67108864,
    'full-backing-filename': '/g/base.qcow2',
    'backing-filename': 'base.qcow2',
    'backing-image': {
      filename: '/g/base.qcow2',
      'backing-filename': '/g/root.raw',
      'backing-image': { filename: '/g/root.raw' },
    },
    snapshots: [{ id: '1', name: 'before', 'vm-state-size': 0 }],
  },
};

it('the parts of the block graph that snapshots need are kept', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'qmp');
  await using _ = await FakeQmpServer.listen(path, {
    'query-block': () => [
      { device: '', qdev: '/machine/unattached/device[2]', inserted },
      { device: 'ide1-cd0', locked: false },
    ],
    'query-named-block-nodes': () => [inserted],
    'query-block-jobs': () => [{ device: 'job0', type: 'commit', status: 'running', len: 9, offset: 5 }],
    'query-status': () => ({ status: 'paused', running: false, singlestep: false }),
    'query-version': () => ({ qemu: { major: 7, minor: 2, micro: 22 }, package: '' }),
  });
  await using client = await QmpClient.connect(path);
  const node = {
    nodeName: 'snap1',
    driver: 'qcow2',
    file: '/g/overlay.qcow2',
    readOnly: false,
    encrypted: false,
    externalData: false,
    backingFiles: ['/g/base.qcow2', '/g/root.raw'],
    tags: ['before'],
    virtualSize: 67108864,
  };
  expect(await commands.queryBlock(client)).toEqual([
    { device: '', qdev: '/machine/unattached/device[2]', inserted: node },
    { device: 'ide1-cd0', qdev: undefined, inserted: undefined },
  ]);
  expect(await commands.queryNamedBlockNodes(client)).toEqual([node]);
  expect(await commands.queryBlockJobs(client)).toEqual([
    { id: 'job0', type: 'commit', status: 'running', offset: 5, length: 9 },
  ]);
  expect(await commands.queryStatus(client)).toEqual({ status: 'paused', running: false });
  expect(await commands.queryVersion(client)).toEqual({ major: 7, minor: 2, micro: 22, package: '' });
});

it.each([
  ['query-block', commands.queryBlock, [{ device: '', inserted: { drv: 'qcow2' } }]],
  ['query-block', commands.queryBlock, {}],
  ['query-named-block-nodes', commands.queryNamedBlockNodes, [{ ...inserted, ro: 'yes' }]],
  ['query-named-block-nodes', commands.queryNamedBlockNodes, [7]],
  ['query-block-jobs', commands.queryBlockJobs, [{ type: 'commit' }]],
  ['query-status', commands.queryStatus, { status: 'running' }],
  ['query-version', commands.queryVersion, { qemu: { major: 1, minor: 2 } }],
] as const)('an unexpected answer to %s is refused', async (command, query, answer) => {
  await using directory = await tempDir();
  const path = join(directory.path, 'qmp');
  await using _ = await FakeQmpServer.listen(path, { [command]: () => answer });
  await using client = await QmpClient.connect(path);
  await expect(query(client)).rejects.toBeInstanceOf(QmpProtocolError);
});

it('commands are sent as QEMU expects them', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'qmp');
  const ok = (): unknown => ({});
  await using server = await FakeQmpServer.listen(path, {
    stop: ok,
    cont: ok,
    transaction: ok,
    'blockdev-snapshot-delete-internal-sync': ok,
    'blockdev-del': ok,
    'qom-get': ({ path }) => (path === '/xvda' ? 'xvda0' : Promise.reject(new Error('no such property'))),
    'xen-save-devices-state': ok,
    'xen-set-global-dirty-log': ok,
  });
  await using client = await QmpClient.connect(path);
  await commands.stop(client);
  await commands.saveDevicesState(client, '/run/x');
  await commands.setGlobalDirtyLog(client, true);
  const action = {
    type: 'blockdev-snapshot-internal-sync',
    data: { device: 'xvda-qcow2', name: 's' },
  } as const;
  await commands.transaction(client, [action]);
  await commands.deleteInternalSnapshot(client, 'xvda-qcow2', 's');
  await commands.deleteNode(client, 'xvda-qcow2');
  expect(await commands.queryVdev(client, '/xvda')).toBe('xvda');
  expect(await commands.queryVdev(client, '/vda')).toBeUndefined();
  await commands.cont(client);
  expect(server.received.slice(1)).toEqual([
    { execute: 'stop' },
    { execute: 'xen-save-devices-state', arguments: { filename: '/run/x', live: false } },
    { execute: 'xen-set-global-dirty-log', arguments: { enable: true } },
    { execute: 'transaction', arguments: { actions: [action] } },
    { execute: 'blockdev-snapshot-delete-internal-sync', arguments: { device: 'xvda-qcow2', name: 's' } },
    { execute: 'blockdev-del', arguments: { 'node-name': 'xvda-qcow2' } },
    { execute: 'qom-get', arguments: { path: '/xvda', property: 'vdev' } },
    { execute: 'qom-get', arguments: { path: '/vda', property: 'vdev' } },
    { execute: 'cont' },
  ]);
});

describe('commitOverlay', () => {
  const job = { device: 'commit-xlsnap-xvda-1', type: 'commit' };

  async function commit(
    onCommit: (server: FakeQmpServer) => void,
    limits = {},
    left: { jobs: readonly object[]; becomesReady?: boolean } = { jobs: [] },
  ): Promise<string[]> {
    await using directory = await tempDir();
    const path = join(directory.path, 'qmp');
    await using server = await FakeQmpServer.listen(path, {
      'query-block-jobs': (_, fake) => {
        if (left.becomesReady === true) fake.event('BLOCK_JOB_READY', job);
        return left.jobs;
      },
      'block-commit': (_, fake) => {
        onCommit(fake);
        return {};
      },
      'block-job-complete': (_, fake) => {
        fake.event('BLOCK_JOB_COMPLETED', job);
        return {};
      },
      'block-job-cancel': () => ({}),
    });
    await using client = await QmpClient.connect(path);
    try {
      await commands.commitOverlay(client, 'xlsnap-xvda-1', '/d/a.qcow2', limits);
      return server.received.map(({ execute }) => execute);
    } catch (error) {
      expect(server.received.at(-1)).toEqual({
        execute: 'block-job-cancel',
        arguments: { device: job.device },
      });
      throw error;
    }
  }

  it('completes its own job when that is ready', async () => {
    const sent = await commit((server) => {
      server.event('BLOCK_JOB_COMPLETED', { ...job, device: 'another' });
      server.event('BLOCK_JOB_READY', job);
    });
    expect(sent).toEqual(['qmp_capabilities', 'query-block-jobs', 'block-commit', 'block-job-complete']);
  });

  it.each([
    ['is ready', { jobs: [{ ...job, status: 'ready' }] }],
    ['becomes ready while it is asked for', { jobs: [{ ...job, status: 'ready' }], becomesReady: true }],
    ['still runs', { jobs: [{ ...job, status: 'running' }], becomesReady: true }],
  ])('completes the job that an earlier call left, starting no second one, if it %s', async (_, left) => {
    const sent = await commit(() => expect.unreachable(), {}, left);
    expect(sent).toEqual(['qmp_capabilities', 'query-block-jobs', 'block-job-complete']);
  });

  it('is not given up while its job progresses, and is cancelled by another session if this one is closed', async () => {
    await using directory = await tempDir();
    const path = join(directory.path, 'qmp');
    let offset = 0;
    let stuck = false;
    let cancelled = 0;
    await using server = await FakeQmpServer.listen(path, {
      'query-block-jobs': (_, fake) => {
        if (offset >= 4) fake.event('BLOCK_JOB_READY', job);
        return [{ ...job, status: 'running', offset: stuck ? 1 : ++offset }];
      },
      'block-job-complete': (_, fake) => {
        fake.event('BLOCK_JOB_COMPLETED', job);
        return {};
      },
      'block-job-cancel': () => {
        cancelled++;
        return {};
      },
    });
    const commit = (client: QmpClient): Promise<void> =>
      whileItProgresses(
        () => commands.commitOverlay(client, 'xlsnap-xvda-1', '/d/a.qcow2'),
        1500,
        () => new Error('given up'),
      );
    {
      await using client = await QmpClient.connect(path);
      await commit(client);
      expect(offset).toBeGreaterThanOrEqual(4);
      stuck = true;
      offset = 0;
      await expect(commit(client)).rejects.toThrow('given up');
      expect(cancelled).toBe(1);
    }
    const client = await QmpClient.connect(path);
    const lost = commit(client);
    await sleep(300);
    await client.close();
    await expect(lost).rejects.toThrow(/closed/);
    expect(cancelled).toBe(2);
    expect(server.received.at(-1)?.execute).toBe('block-job-cancel');
  });

  it('reports progress, and asks before the disk continues on the backing image', async () => {
    await using directory = await tempDir();
    const path = join(directory.path, 'qmp');
    let ready = false;
    await using server = await FakeQmpServer.listen(path, {
      'query-block-jobs': (_, fake) => {
        if (!server.received.some(({ execute }) => execute === 'block-commit')) return [];
        if (ready) fake.event('BLOCK_JOB_READY', job);
        return [{ ...job, status: 'running', offset: 3, len: 8 }];
      },
      'block-commit': () => ({}),
      'block-job-complete': (_, fake) => {
        fake.event('BLOCK_JOB_COMPLETED', job);
        return {};
      },
      'block-job-cancel': () => ({}),
    });
    await using client = await QmpClient.connect(path);
    const seen: unknown[] = [];
    const commit = (beforeSwitch: () => Promise<void>, limits = {}): Promise<void> =>
      commands.commitOverlay(client, 'xlsnap-xvda-1', '/d/a.qcow2', limits, {
        onProgress: ({ offset, length }) => {
          seen.push([offset, length]);
          ready = true;
        },
        beforeSwitch,
      });
    await commit(async () => {
      seen.push(server.received.at(-1)?.execute);
    });
    expect(seen[0]).toEqual([3, 8]);
    expect(seen.at(-1)).toBe('query-block-jobs');
    expect(server.received.at(-1)?.execute).toBe('block-job-complete');
    const refused = commit(() => Promise.reject(new Error('the journal is full')));
    await expect(refused).rejects.toThrow('the journal is full');
    expect(server.received.at(-1)?.execute).toBe('block-job-cancel');
    ready = false;
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 100);
    await expect(commit(async () => {}, { signal: abort.signal })).rejects.toThrow('interrupted');
    expect(server.received.at(-1)?.execute).toBe('block-job-cancel');
  });

  it('does not take the job of another disk for its own', async () => {
    const jobs = [{ ...job, device: 'commit-another', status: 'ready' }];
    const sent = await commit((server) => server.event('BLOCK_JOB_READY', job), {}, { jobs });
    expect(sent).toContain('block-commit');
  });

  it.each([
    ['fails', 'BLOCK_JOB_COMPLETED', { ...job, error: 'No space left on device' }, /No space left/],
    ['is cancelled', 'BLOCK_JOB_CANCELLED', job, /cancelled/],
  ])('reports a job that %s', async (_, event, data, message) => {
    await expect(commit((server) => server.event(event, data))).rejects.toThrow(message);
  });

  it('leaves no job behind if it takes too long', async () => {
    await expect(commit(() => {}, { timeoutMs: 20 })).rejects.toMatchObject({ code: 'QMP_TIMEOUT' });
  });
});
