/**
 * Merges of overlays that a domain was started on: QEMU then owns the top node itself, and nodes below it have no names of their
 * own.
 */
import { existsSync } from 'node:fs';
import { readdir, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.ts';
import { commitOverlay, queryBlock, queryBlockJobs, queryNamedBlockNodes } from '../../src/qmp/commands.ts';
import type { MergeOptions } from '../../src/snapshot/ports.ts';
import { QemuDeviceModel } from '../../src/toolstack/qemu/device-model.ts';
import { matchDisks, type ResolvedDisk, readBlockFacts } from '../../src/toolstack/qemu/disks.ts';
import { makeImage, output, type Qemu, startQemu, xenDisk } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let qemu: Qemu;
const at = (name: string): string => join(directory.path, name);

beforeEach(async () => {
  directory = await tempDir();
  await makeImage(at('base'));
  for (const [overlay, below] of [
    ['e1', 'base'],
    ['e2', 'e1'],
  ] as const) {
    await output('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', at(below), '-F', 'qcow2', at(overlay));
  }
  qemu = await startQemu(directory.path, xenDisk('xvda', at('e2')));
});
afterEach(async () => {
  await qemu[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

async function ask<T>(question: (client: QmpClient) => Promise<T>): Promise<T> {
  await using client = await QmpClient.connect(qemu.socket);
  return await question(client);
}

/** Opens the device model as a new process does, with the disk on the image that xenstore names. */
async function open(path: string): Promise<QemuDeviceModel> {
  const disks = await ask((client) => disksOn(client, path));
  return new QemuDeviceModel(await QmpClient.connect(qemu.socket), disks, { timeoutMs: 20_000 });
}

async function disksOn(client: QmpClient, path: string): Promise<readonly ResolvedDisk[]> {
  const disk = { vdev: 'xvda', path: at(path), format: 'qcow2', writable: true, cdrom: false };
  return matchDisks([disk], [], await readBlockFacts(client));
}

/** Merges as one process, and removes the overlay as that does. */
async function merge(overlay: string, base: string, options?: MergeOptions): Promise<boolean> {
  await using model = await open(overlay);
  const done = await model.mergeOverlay({ vdev: 'xvda', overlay: at(overlay), base: at(base) }, options);
  await rm(at(overlay), { force: true });
  return done;
}

const write = (byte: number): Promise<unknown> =>
  ask((client) =>
    client.execute('human-monitor-command', {
      'command-line': `qemu-io -d /machine/peripheral-anon/device[0]/virtio-backend "write -P ${byte} ${byte}M 64k"`,
    }),
  );

const nodeNames = async (): Promise<readonly string[]> =>
  (await ask(queryNamedBlockNodes)).map(({ nodeName }) => nodeName);

/** The images that QEMU has open. */
async function openImages(): Promise<readonly string[]> {
  const folder = `/proc/${qemu.pid}/fd`;
  const links = await Promise.all(
    (await readdir(folder)).map((fd) => readlink(join(folder, fd)).catch(() => '')),
  );
  return links
    .filter((link) => link.startsWith(directory.path))
    .map((link) => link.slice(directory.path.length + 1));
}

/** The disk is on an image that has all that was written, and QEMU has nothing else open. */
async function expectOn(image: string, bytes: readonly number[]): Promise<void> {
  expect(await ask(queryBlock)).toMatchObject([{ inserted: { file: at(image) } }]);
  expect(await ask(queryBlockJobs)).toEqual([]);
  await qemu.quit();
  for (const byte of bytes) {
    const read = await output('qemu-io', '-c', `read -P ${byte} ${byte}M 64k`, at(image));
    expect(read).toContain('read 65536/65536');
  }
  expect(await output('qemu-img', 'check', at(image))).toContain('No errors');
}

/** A process of an earlier version, or one that is killed when the disk has just been switched. */
const mergeAndLeave = (overlay: string, base: string): Promise<void> =>
  ask(async (client) => {
    const [disk] = await disksOn(client, overlay);
    await commitOverlay(client, disk?.node ?? '', at(base));
  });

describe('a domain that was started on overlays', () => {
  it('continues on the image at the bottom, after one merge for each overlay', async () => {
    await write(1);
    const warnings: string[] = [];
    expect(await merge('e2', 'e1', { onWarning: (text) => warnings.push(text) })).toBe(true);
    // The space of the overlay is free at once, not when the domain ends.
    expect(await openImages()).toEqual(['base', 'e1']);
    await write(2);
    expect(await merge('e1', 'base')).toBe(true);
    await write(3);
    expect(await openImages()).toEqual(['base']);
    expect(warnings).toEqual([]);
    await expectOn('base', [1, 2, 3]);
  });

  it('is snapshotted on an image that has no node name of its own, both ways, and that is undone', async () => {
    await merge('e2', 'e1');
    for (const action of [
      { kind: 'internal', vdev: 'xvda', tag: 's' },
      { kind: 'external', vdev: 'xvda', path: at('e3') },
    ] as const) {
      {
        await using model = await open('e1');
        await model.snapshotDisks([action]);
      }
      await write(1);
      await using model = await open(action.kind === 'external' ? 'e3' : 'e1');
      expect(await model.undoSnapshots([action])).toEqual([action]);
    }
    expect(existsSync(at('e3'))).toBe(false);
    await merge('e1', 'base');
    await expectOn('base', [1]);
  });

  it('merges overlays of later snapshots first, then those that it was started on', async () => {
    await using model = await open('e2');
    await model.snapshotDisks([{ kind: 'external', vdev: 'xvda', path: at('e3') }]);
    await model[Symbol.asyncDispose]();
    await write(1);
    for (const [overlay, base] of [
      ['e3', 'e2'],
      ['e2', 'e1'],
      ['e1', 'base'],
    ] as const) {
      expect(await merge(overlay, base), overlay).toBe(true);
    }
    expect(await openImages()).toEqual(['base']);
    await expectOn('base', [1]);
  });

  it('is waited for, if the job of a killed process merges an overlay without a node name', async () => {
    await merge('e2', 'e1');
    await write(1);
    {
      await using model = await open('e1');
      const hung = model.mergeOverlay(
        { vdev: 'xvda', overlay: at('e1'), base: at('base') },
        { beforeSwitch: () => new Promise(() => {}) },
      );
      hung.catch(() => {});
      await expect
        .poll(async () => (await output('qemu-img', 'map', '-U', at('base'))).includes('0x100000'))
        .toBe(true);
    }
    expect((await ask(queryBlockJobs)).map(({ type }) => type)).toEqual(['commit']);
    expect(await merge('e1', 'base')).toBe(true);
    await expectOn('base', [1]);
  });
});

describe('the node of a merged overlay that a killed process, or an earlier xlsnap, has left', () => {
  it('does not prevent the next merge', async () => {
    await write(1);
    await mergeAndLeave('e2', 'e1');
    expect(await nodeNames()).toContain('xvda-qcow2');
    expect(await merge('e1', 'base')).toBe(true);
    expect(await openImages()).toEqual(['base']);
    await expectOn('base', [1]);
  });

  it('goes when the merge is repeated, which finds it done', async () => {
    await mergeAndLeave('e2', 'e1');
    await rm(at('e2'));
    await using model = await open('e1');
    expect(await model.mergeOverlay({ vdev: 'xvda', overlay: at('e2'), base: at('e1') })).toBe(false);
    expect(await openImages()).toEqual(['base', 'e1']);
  });

  it('goes before a snapshot is taken, and so does not prevent its undo', async () => {
    await mergeAndLeave('e2', 'e1');
    const action = { kind: 'external', vdev: 'xvda', path: at('e3') } as const;
    {
      await using model = await open('e1');
      await model.prepareSnapshot('xvda');
    }
    expect(await nodeNames()).not.toContain('xvda-qcow2');
    {
      await using model = await open('e1');
      await model.snapshotDisks([action]);
    }
    await write(1);
    await using model = await open('e3');
    expect(await model.undoSnapshots([action])).toEqual([action]);
    await model[Symbol.asyncDispose]();
    await expectOn('e1', [1]);
  });

  it('is left to whoever uses it, and the error says so', async () => {
    await mergeAndLeave('e2', 'e1');
    await ask(async (client) => {
      await client.execute('object-add', { 'qom-type': 'throttle-group', id: 'slowly' });
      await client.execute('blockdev-add', {
        driver: 'throttle',
        'node-name': 'theirs',
        'throttle-group': 'slowly',
        file: 'xvda-qcow2',
      });
    });
    await expect(merge('e1', 'base')).rejects.toMatchObject({
      code: 'IMAGE_IN_USE',
      message: expect.stringContaining('xvda-qcow2'),
    });
    expect(await nodeNames()).toEqual(expect.arrayContaining(['theirs', 'xvda-qcow2']));
    await ask((client) => client.execute('blockdev-del', { 'node-name': 'theirs' }));
    expect(await merge('e1', 'base')).toBe(true);
    await expectOn('base', []);
  });
});
