import { existsSync } from 'node:fs';
import { open as openFile, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { createConnection, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.ts';
import { type BlockNode, queryBlock, queryBlockJobs, queryStatus } from '../../src/qmp/commands.ts';
import { QmpClosedError, QmpCommandError, QmpTimeoutError } from '../../src/qmp/errors.ts';
import type { DiskAction } from '../../src/snapshot/ports.ts';
import { QemuDeviceModel } from '../../src/toolstack/qemu/device-model.ts';
import { matchDisks, type ResolvedDisk, readBlockFacts } from '../../src/toolstack/qemu/disks.ts';
import { makeImage, output, type Qemu, startQemu, xenDisk } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let qemu: Qemu;
let disks: readonly ResolvedDisk[];
let model: QemuDeviceModel | undefined;
const at = (name: string): string => join(directory.path, name);
const overlay = (): string => at('over, lay:1.qcow2');
const mixed = (): DiskAction[] => [
  { kind: 'internal', vdev: 'xvda', tag: 's1' },
  { kind: 'external', vdev: 'xvdb', path: overlay() },
];

beforeEach(async () => {
  directory = await tempDir();
  const images = [await makeImage(at('first.qcow2')), await makeImage(at('second.raw'), 'raw')];
  qemu = await startQemu(directory.path, [
    ...xenDisk('xvda', images[0] ?? ''),
    ...xenDisk('xvdb', images[1] ?? '', 'raw'),
  ]);
  await using client = await QmpClient.connect(qemu.socket);
  const config = ['xvda', 'xvdb'].map((vdev, i) => ({
    vdev,
    path: images[i],
    format: i === 0 ? 'qcow2' : 'raw',
    writable: true,
    cdrom: false,
  }));
  disks = matchDisks(config, [], await readBlockFacts(client));
});
afterEach(async () => {
  await model?.[Symbol.asyncDispose]();
  model = undefined;
  await qemu[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

async function open(socket = qemu.socket, timeoutMs = 20_000): Promise<QemuDeviceModel> {
  model = new QemuDeviceModel(await QmpClient.connect(socket), disks, { timeoutMs });
  return model;
}

/** Ends the model's session, since QEMU serves one client at a time, and asks with another. */
async function ask<T>(question: (client: QmpClient) => Promise<T>): Promise<T> {
  await model?.[Symbol.asyncDispose]();
  await using client = await QmpClient.connect(qemu.socket);
  return await question(client);
}

const tops = (): Promise<(BlockNode | undefined)[]> =>
  ask(async (client) => (await queryBlock(client)).map(({ inserted }) => inserted));

/** Returns the disks as another process finds them now. */
const resolved = (): Promise<readonly ResolvedDisk[]> =>
  ask(async (client) =>
    matchDisks(
      disks.map((disk) => ({ ...disk, path: disk.path, format: disk.format })),
      [],
      await readBlockFacts(client),
    ),
  );

/** Writes to the first or the second disk, as the guest. */
const write = (disk: 0 | 1, byte: number): Promise<unknown> =>
  ask((client) =>
    client.execute('human-monitor-command', {
      'command-line': `qemu-io -d /machine/peripheral-anon/device[${disk}]/virtio-backend "write -P ${byte} 0 64k"`,
    }),
  );

/** Checks that both disks are as they were, no file or job is left, and the first image is sound. */
async function expectAsBefore(): Promise<void> {
  expect(await tops()).toMatchObject([{ nodeName: 'xvda-qcow2', tags: [] }, { nodeName: 'xvdb-raw' }]);
  expect(await ask(queryBlockJobs)).toEqual([]);
  expect(existsSync(overlay())).toBe(false);
  await qemu.quit();
  expect(await output('qemu-img', 'check', at('first.qcow2'))).toContain('No errors');
}

it('stops and continues the machine', async () => {
  await (await open()).cont();
  expect(await ask(queryStatus)).toMatchObject({ status: 'running' });
  await (await open()).stop();
  expect(await ask(queryStatus)).toMatchObject({ status: 'paused' });
});

describe('the state of the devices', () => {
  const leftovers = async (): Promise<string[]> =>
    (await readdir(directory.path)).filter((name) => name.startsWith('xlsnap-'));

  it('is what QEMU saves, and leaves no file', async () => {
    const state = await (await open()).saveState();
    // QEMU_VM_FILE_MAGIC
    expect(Buffer.from(state.subarray(0, 4)).toString('latin1')).toBe('QEVM');
    expect(state.length).toBeGreaterThan(1000);
    expect(await leftovers()).toEqual([]);
  });

  it('leaves no file when QEMU refuses either', async () => {
    // A directory that QEMU cannot reach by that name.
    await using own = await openFile(directory.path);
    const model = await open(`/proc/self/fd/${own.fd}/qmp`);
    await expect(model.saveState()).rejects.toBeInstanceOf(QmpCommandError);
    expect(await leftovers()).toEqual([]);
  });
});

describe('disk snapshots', () => {
  it('of both kinds are taken at once, and no one else can read the overlay', async () => {
    await (await open()).snapshotDisks(mixed());
    expect(await tops()).toMatchObject([
      { nodeName: 'xvda-qcow2', tags: ['s1'] },
      { nodeName: 'xlsnap-xvdb-1', file: overlay(), backingFiles: [at('second.raw')] },
    ]);
    expect((await stat(overlay())).mode & 0o777).toBe(0o600);
  });

  it('leave nothing behind if the second one is refused', async () => {
    const one = await open();
    await one.snapshotDisks([{ kind: 'internal', vdev: 'xvda', tag: 's1' }]);
    await expect(one.snapshotDisks([...mixed()].reverse())).rejects.toThrow(/s1.*already exists/);
    await one.undoSnapshots([{ kind: 'internal', vdev: 'xvda', tag: 's1' }]);
    await expectAsBefore();
  });

  it('an overlay that is undone is merged into the overlay that the disk was on, not into its base', async () => {
    await (await open()).snapshotDisks(mixed());
    await write(1, 7);
    const base = await readFile(at('second.raw'));
    // As another process resolves them.
    disks = await resolved();
    const second: DiskAction = { kind: 'external', vdev: 'xvdb', path: at('second-ov.qcow2') };
    await (await open()).snapshotDisks([second]);
    await write(1, 8);
    disks = await resolved();
    const again = await open();
    expect(await again.undoSnapshots([second])).toEqual([second]);
    expect(await again.undoSnapshots([second])).toEqual([]);
    expect(existsSync(at('second-ov.qcow2'))).toBe(false);
    expect((await tops())[1]).toMatchObject({ nodeName: 'xlsnap-xvdb-1', file: overlay() });
    expect((await readFile(at('second.raw'))).equals(base)).toBe(true);
  });

  it('never overwrite a file', async () => {
    await writeFile(overlay(), 'precious');
    await expect((await open()).snapshotDisks(mixed())).rejects.toMatchObject({ code: 'OVERLAY' });
    expect((await stat(overlay())).size).toBe(8);
    expect(await tops()).toMatchObject([{ tags: [] }, { nodeName: 'xvdb-raw' }]);
  });

  it('go to the file that was reserved for the overlay, and to no other', async () => {
    const action = (reserved: number): DiskAction => ({
      kind: 'external',
      vdev: 'xvdb',
      path: overlay(),
      reserved,
    });
    await writeFile(overlay(), '', { mode: 0o600 });
    const { ino } = await stat(overlay());
    await writeFile(at('theirs'), '');
    await rename(at('theirs'), overlay());
    const other = (await stat(overlay())).ino;
    const model = await open();
    await expect(model.snapshotDisks([action(ino)])).rejects.toMatchObject({ code: 'OVERLAY' });
    expect((await stat(overlay())).ino).toBe(other);
    await writeFile(overlay(), 'precious');
    await expect(model.snapshotDisks([action(other)])).rejects.toMatchObject({ code: 'OVERLAY' });
    expect(await readFile(overlay(), 'utf8')).toBe('precious');
    await writeFile(overlay(), '');
    await model.snapshotDisks([action(other)]);
    expect(await tops()).toMatchObject([{}, { file: overlay(), backingFiles: [at('second.raw')] }]);
    expect((await stat(overlay())).ino).toBe(other);
  });

  it('cannot share an overlay', async () => {
    const same = ['xvda', 'xvdb'].map((vdev) => ({ kind: 'external', vdev, path: overlay() }) as const);
    await expect((await open()).snapshotDisks(same)).rejects.toMatchObject({ code: 'OVERLAY' });
    await expectAsBefore();
  });
});

describe('undoing disk snapshots', () => {
  it.each<[string, () => DiskAction[]]>([
    ['internal', () => mixed().slice(0, 1)],
    ['external', () => mixed().slice(1)],
    ['mixed', mixed],
  ])('%s: what was written since is kept', async (_, actions) => {
    await (await open()).snapshotDisks(actions());
    await write(0, 6);
    await write(1, 7);
    await (await open()).undoSnapshots(actions());
    await expectAsBefore();
    expect(await output('qemu-io', '-c', 'read -P 6 0 64k', at('first.qcow2'))).toContain('read 65536/65536');
    const raw = ['-f', 'raw', '-c', 'read -P 7 0 64k', at('second.raw')];
    expect(await output('qemu-io', ...raw)).not.toContain('verification failed');
  });
});

describe('merging an overlay while the guest runs', () => {
  const merge = () => ({ vdev: 'xvdb', overlay: overlay(), base: at('second.raw') });

  /** Takes an external snapshot of the second disk, and writes to it. */
  async function snapshotted(): Promise<QemuDeviceModel> {
    await (await open()).snapshotDisks(mixed().slice(1));
    await write(1, 7);
    disks = await resolved();
    return await open();
  }

  async function expectMerged(): Promise<void> {
    expect((await tops())[1]).toMatchObject({ file: at('second.raw'), backingFiles: [] });
    expect(await ask(queryBlockJobs)).toEqual([]);
    // What the guest writes now goes there too.
    await write(1, 9);
    await qemu.quit();
    const raw = ['-f', 'raw', '-c', 'read -P 9 0 64k', at('second.raw')];
    expect(await output('qemu-io', ...raw)).not.toContain('verification failed');
  }

  it('the disk continues on the base, which has all data; the file of the overlay stays', async () => {
    const one = await snapshotted();
    const base = await readFile(at('second.raw'));
    const seen: (readonly [number, number])[] = [];
    let before = false;
    const done = await one.mergeOverlay(merge(), {
      onProgress: (...progress) => seen.push(progress),
      beforeSwitch: async () => {
        before = true;
        const now = await readFile(at('second.raw'));
        expect(now.equals(base)).toBe(false);
        expect(now.subarray(0, 65536).every((byte) => byte === 7)).toBe(true);
      },
    });
    expect({ done, before }).toEqual({ done: true, before: true });
    expect(existsSync(overlay())).toBe(true);
    disks = await resolved();
    // Done already.
    expect(await (await open()).mergeOverlay(merge())).toBe(false);
    await expectMerged();
  });

  it('is cancelled, and the disk stays on the overlay, if what must be noted before cannot be', async () => {
    const one = await snapshotted();
    const refused = one.mergeOverlay(merge(), { beforeSwitch: () => Promise.reject(new Error('full')) });
    await expect(refused).rejects.toThrow('full');
    await expect.poll(async () => (await ask(queryBlockJobs)).length, { timeout: 10_000 }).toBe(0);
    expect((await tops())[1]).toMatchObject({ file: overlay() });
    await (await open()).mergeOverlay(merge());
    await expectMerged();
  });

  it('is continued by another session if the process was killed', async () => {
    const one = await snapshotted();
    // The session breaks when all is copied: the job stays.
    const hung = one.mergeOverlay(merge(), { beforeSwitch: () => new Promise(() => {}) });
    hung.catch(() => {});
    await expect
      .poll(async () => (await readFile(at('second.raw'))).subarray(0, 65536).every((byte) => byte === 7))
      .toBe(true);
    expect((await ask(queryBlockJobs)).map(({ type }) => type)).toEqual(['commit']);
    disks = await resolved();
    expect(await (await open()).mergeOverlay(merge())).toBe(true);
    await expectMerged();
  });

  it('refuses an overlay that is on another base', async () => {
    const one = await snapshotted();
    const other = one.mergeOverlay({ ...merge(), base: at('first.qcow2') });
    await expect(other).rejects.toMatchObject({ code: 'OTHER_IMAGE' });
    expect((await tops())[1]).toMatchObject({ file: overlay() });
  });
});

describe('a transaction without an answer', () => {
  it('is not even sent to a QEMU that does not answer', async () => {
    const one = await open(qemu.socket, 500);
    process.kill(qemu.pid, 'SIGSTOP');
    try {
      await expect(one.snapshotDisks(mixed())).rejects.toBeInstanceOf(QmpTimeoutError);
    } finally {
      process.kill(qemu.pid, 'SIGCONT');
    }
    await expectAsBefore();
  });

  /** A proxy between us and QEMU that sees each command before QEMU gets it. */
  async function listen(look: (command: string) => 'lose the answer' | undefined): Promise<Server> {
    const server = createServer((client) => {
      const peer = createConnection(qemu.socket);
      let losing = false;
      client.on('data', (chunk: Buffer) => {
        losing ||= look(chunk.toString()) !== undefined;
        peer.write(chunk);
      });
      peer.on('data', (chunk: Buffer) => {
        if (losing) client.destroy();
        else client.write(chunk);
      });
      for (const [from, to] of [
        [client, peer],
        [peer, client],
      ] as const) {
        from.on('error', () => {});
        from.on('close', () => to.destroy());
      }
    });
    await new Promise<void>((resolve) => server.listen(at('proxy'), resolve));
    return server;
  }

  it('is undone if QEMU was slow to carry it out', async () => {
    let stopped = false;
    const server = await listen((command) => {
      if (command.includes('"transaction"')) {
        process.kill(qemu.pid, 'SIGSTOP');
        stopped = true;
      } else if (stopped) process.kill(qemu.pid, 'SIGCONT');
      return undefined;
    });
    try {
      // Also how long QEMU may take for the transaction and the next answer once it continues: several
      // fsyncs.
      const one = await open(at('proxy'), 8000);
      await expect(one.snapshotDisks(mixed())).rejects.toBeInstanceOf(QmpTimeoutError);
      expect(stopped).toBe(true);
    } finally {
      server.close();
    }
    await expectAsBefore();
  });

  it('is undone if the session broke', async () => {
    const server = await listen((command) =>
      command.includes('"transaction"') ? 'lose the answer' : undefined,
    );
    try {
      const one = await open(at('proxy'));
      await expect(one.snapshotDisks(mixed())).rejects.toBeInstanceOf(QmpClosedError);
      // The guest can resume over another session.
      await one.cont();
      expect(await ask(queryStatus)).toMatchObject({ running: true });
    } finally {
      server.close();
    }
    await expectAsBefore();
  });

  it('reports what may be left if QEMU has died', async () => {
    const server = await listen((command) => {
      if (command.includes('"transaction"')) process.kill(qemu.pid, 'SIGKILL');
      return undefined;
    });
    try {
      const one = await open(at('proxy'));
      await expect(one.snapshotDisks(mixed())).rejects.toMatchObject({
        code: 'DISKS_UNKNOWN',
        data: {
          left: [
            'disk xvda may have the snapshot s1 in its image',
            `disk xvdb may be using the overlay ${overlay()}`,
          ],
        },
      });
      // It may hold what the guest wrote.
      expect(existsSync(overlay())).toBe(true);
    } finally {
      server.close();
    }
  });
});
