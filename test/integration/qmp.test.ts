import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.ts';
import {
  commitOverlay,
  deleteInternalSnapshot,
  queryBlock,
  queryBlockedReasons,
  queryBlockJobs,
  queryNamedBlockNodes,
  queryStatus,
  queryVersion,
  type TransactionAction,
  transaction,
} from '../../src/qmp/commands.ts';
import { QmpCommandError, QmpConnectError } from '../../src/qmp/errors.ts';
import { migrationObstacles } from '../../src/toolstack/create-checks/checks.ts';
import { makeImage, output, type Qemu, startQemu, xenDisk } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let qemu: Qemu;
let client: QmpClient;
let first: string;
let second: string;
let overlay: string;

beforeEach(async () => {
  directory = await tempDir();
  first = await makeImage(join(directory.path, 'a, b:c.qcow2'));
  second = await makeImage(join(directory.path, 'second.qcow2'));
  overlay = join(directory.path, 'over, lay:1.qcow2');
  qemu = await startQemu(directory.path, [...xenDisk('xvda', first), ...xenDisk('xvdb', second)]);
  client = await QmpClient.connect(qemu.socket);
});
afterEach(async () => {
  await client.close();
  await qemu[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

const internal = (device: string, name: string): TransactionAction => ({
  type: 'blockdev-snapshot-internal-sync',
  data: { device, name },
});
const external = (node: string, file: string, overlayNode: string): TransactionAction => ({
  type: 'blockdev-snapshot-sync',
  data: { 'node-name': node, 'snapshot-file': file, format: 'qcow2', 'snapshot-node-name': overlayNode },
});
const tops = async (): Promise<(string | undefined)[]> =>
  (await queryBlock(client)).map(({ inserted }) => inserted?.nodeName);

it('answers the queries that we need', async () => {
  expect((await queryVersion(client)).major).toBeGreaterThan(6);
  expect(client.version).toEqual(await queryVersion(client));
  expect(await queryStatus(client)).toEqual({ status: 'prelaunch', running: false });
  expect(await queryBlockJobs(client)).toEqual([]);
  const nodes = await queryNamedBlockNodes(client);
  expect(
    nodes
      .filter(({ file }) => file === first)
      .map(({ driver }) => driver)
      .sort(),
  ).toEqual(['file', 'qcow2']);
  expect(await queryBlock(client)).toMatchObject([
    { device: '', inserted: { nodeName: 'xvda-qcow2', driver: 'qcow2', file: first, readOnly: false } },
    { device: '', inserted: { nodeName: 'xvdb-qcow2', driver: 'qcow2', file: second } },
  ]);
});

it('takes an internal and an external snapshot in one transaction', async () => {
  await transaction(client, [internal('xvda-qcow2', 's1'), external('xvdb-qcow2', overlay, 'xlsnap-xvdb-1')]);
  const [a, b] = await queryBlock(client);
  expect(a?.inserted).toMatchObject({ nodeName: 'xvda-qcow2', tags: ['s1'] });
  expect(b?.inserted).toMatchObject({ nodeName: 'xlsnap-xvdb-1', file: overlay, backingFiles: [second] });
  await deleteInternalSnapshot(client, 'xvda-qcow2', 's1');
  expect((await queryBlock(client))[0]?.inserted?.tags).toEqual([]);
});

it.each([
  ['a tag that exists', () => internal('xvdb-qcow2', 'taken'), /already exists/],
  ['a node that is not there', () => internal('xvdz-qcow2', 's1'), /Cannot find device/],
  [
    'an overlay that cannot be made',
    () => external('xvdb-qcow2', '/nonexistent/o', 'xlsnap-xvdb-1'),
    /nonexistent/,
  ],
])('leaves nothing behind of a transaction with %s', async (_, bad, message) => {
  await transaction(client, [internal('xvdb-qcow2', 'taken')]);
  const failure = transaction(client, [
    internal('xvda-qcow2', 's1'),
    external('xvda-qcow2', overlay, 'xlsnap-xvda-1'),
    bad(),
  ]);
  await expect(failure).rejects.toBeInstanceOf(QmpCommandError);
  await expect(failure).rejects.toThrow(message);
  expect(await tops()).toEqual(['xvda-qcow2', 'xvdb-qcow2']);
  expect((await queryBlock(client)).map(({ inserted }) => inserted?.tags)).toEqual([[], ['taken']]);
  // QEMU creates the overlay's file before it knows whether the rest succeeds, and does not remove it.
  expect(existsSync(overlay)).toBe(true);
  await client.close();
  await qemu.quit();
  expect(await output('qemu-img', 'check', first)).toContain('No errors');
  expect(await output('qemu-img', 'snapshot', '-l', first)).not.toContain('s1');
});

it('merges an overlay into its base', async () => {
  await transaction(client, [external('xvda-qcow2', overlay, 'xlsnap-xvda-1')]);
  await client.execute('human-monitor-command', {
    'command-line': 'qemu-io -d /machine/peripheral-anon/device[0]/virtio-backend "write -P 7 0 64k"',
  });
  await commitOverlay(client, 'xlsnap-xvda-1', first, { timeoutMs: 30_000 });
  expect(await tops()).toEqual(['xvda-qcow2', 'xvdb-qcow2']);
  expect(await queryBlockJobs(client)).toEqual([]);
  expect((await queryNamedBlockNodes(client)).some(({ file }) => file === overlay)).toBe(false);
  expect(existsSync(overlay)).toBe(true);
  await client.close();
  await qemu.quit();
  expect(await output('qemu-io', '-c', 'read -P 7 0 64k', first)).toContain('read 65536/65536');
  await expect(output('qemu-img', 'compare', first, second)).rejects.toThrow();
});

it('refuses to merge what is not an overlay', async () => {
  await expect(commitOverlay(client, 'xvda-qcow2', second)).rejects.toBeInstanceOf(QmpCommandError);
  expect(await tops()).toEqual(['xvda-qcow2', 'xvdb-qcow2']);
});

it('reports that a socket is in use, and serves the next client when it is free', async () => {
  await expect(QmpClient.connect(qemu.socket, { timeoutMs: 200 })).rejects.toMatchObject({
    code: 'QMP_BUSY',
  });
  await client.close();
  // QEMU still has to greet the connection before this one, and to notice that it is closed.
  client = await QmpClient.connectFirst([join(directory.path, 'none'), qemu.socket], { timeoutMs: 30_000 });
  expect(client.path).toBe(qemu.socket);
});

it('reports a QEMU that has exited', async () => {
  using listener = client.listen(['SHUTDOWN']);
  const pending = client.execute('quit');
  await pending;
  expect((await listener.next({ timeoutMs: 30_000 })).event).toBe('SHUTDOWN');
  await expect(listener.next({ timeoutMs: 30_000 })).rejects.toMatchObject({ code: 'QMP_CLOSED' });
  await expect(QmpClient.connect(qemu.socket)).rejects.toBeInstanceOf(QmpConnectError);
});

it('reports which devices it cannot save', async () => {
  expect(await queryBlockedReasons(client)).toEqual([]);
  const path = join(directory.path, 'other');
  await mkdir(path);
  await using other = await startQemu(path, [
    ...['-blockdev', 'driver=null-co,node-name=n0,size=1048576'],
    ...['-device', 'nvme,drive=n0,serial=1'],
  ]);
  await using session = await QmpClient.connect(other.socket);
  expect(migrationObstacles(await queryBlockedReasons(session))).toMatchObject([
    { code: 'DEVICE_NOT_SAVED', message: expect.stringMatching(/nvme/) },
  ]);
});
