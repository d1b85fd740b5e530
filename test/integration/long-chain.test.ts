/** A disk after 200 nightly external snapshots: its chain of backing files limits nothing. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.ts';
import { queryBlock } from '../../src/qmp/commands.ts';
import type { DiskAction } from '../../src/snapshot/ports.ts';
import { QemuDeviceModel } from '../../src/toolstack/qemu/device-model.ts';
import { matchDisks, readBlockFacts } from '../../src/toolstack/qemu/disks.ts';
import { makeImage, output, type Qemu, startQemu, xenDisk } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

const OVERLAYS = 200;

let directory: Awaited<ReturnType<typeof tempDir>>;
let qemu: Qemu;
const at = (name: string): string => join(directory.path, name);
const overlay = (n: number): string => at(`${String(n).padStart(3, '0')}.qcow2`);

beforeAll(async () => {
  directory = await tempDir();
  await makeImage(overlay(0));
  // Names of one length: an image whose header names another base is quicker than another qemu-img.
  await output('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', overlay(0), '-F', 'qcow2', overlay(1));
  const first = await readFile(overlay(1), 'latin1');
  for (let n = 2; n <= OVERLAYS; n++) {
    await writeFile(overlay(n), first.replace(overlay(0), overlay(n - 1)), 'latin1');
  }
  qemu = await startQemu(directory.path, xenDisk('xvda', overlay(OVERLAYS)));
});
afterAll(async () => {
  await qemu?.[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

it('is snapshotted by one more overlay, and that is undone', async () => {
  const action: DiskAction = { kind: 'external', vdev: 'xvda', path: at('top.qcow2') };
  await using client = await QmpClient.connect(qemu.socket);
  const stored = {
    vdev: 'xvda',
    path: overlay(OVERLAYS),
    format: 'qcow2',
    writable: true,
    cdrom: false,
  };
  const disks = matchDisks([stored], [], await readBlockFacts(client));
  const model = new QemuDeviceModel(client, disks);
  await model.snapshotDisks([action]);
  expect((await queryBlock(client))[0]?.inserted?.backingFiles).toHaveLength(OVERLAYS + 1);
  await model.undoSnapshots([action]);
  expect((await queryBlock(client))[0]?.inserted?.file).toBe(overlay(OVERLAYS));
});
