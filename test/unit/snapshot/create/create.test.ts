import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import {
  DomainError,
  EnvironmentError,
  OutputError,
  PreflightError,
  UsageError,
} from '../../../../src/core/errors.ts';
import { configDisks } from '../../../../src/memfile/libxl-config.ts';
import { readMemoryFacts, verifyFile } from '../../../../src/memfile/verify.ts';
import type { CreateRequest, Tuning } from '../../../../src/snapshot/api.ts';
import { createSnapshot, planCreate } from '../../../../src/snapshot/create/create.ts';
import type { Guest } from '../../../../src/snapshot/ports.ts';
import { recoverAll, recoverSnapshot } from '../../../../src/snapshot/recover.ts';
import { FakeGuest, isNowhere } from '../../../../src/testing/fake-guest.ts';
import {
  contentOf,
  FAKE_UUID,
  FakeHost,
  type FakeOptions,
  readImage,
  writeImage,
} from '../../../../src/testing/fake-host.ts';
import { failure, filesIn, keepWriting } from '../../../support/scene.ts';

let directory: string;
let snapshots: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-create-'));
  snapshots = join(directory, 'snapshots');
});
afterEach(() => rmSync(directory, { recursive: true }));

function makeHost(options: Partial<FakeOptions> = {}): FakeHost {
  return new FakeHost({ directory, ...options });
}

function request(more: Partial<CreateRequest> = {}): CreateRequest {
  return { domain: 'guest1', name: 's1', snapshotDir: snapshots, ...more };
}

const mixed = (): CreateRequest =>
  request({
    config: parseConfig(
      `name="s1"\nmemory_path="${directory}/s1.save"\ndisks=['${directory}/ov.qcow2,qcow2,xvda', ',,xvdb']`,
      'snap.cfg',
    ),
  });

describe('createSnapshot', () => {
  it.each(['pv', 'pvh', 'hvm'] as const)(
    'saves a running %s guest with its disk at one instant',
    async (type) => {
      const host = makeHost({ type });
      host.write('at the snapshot');
      const result = await createSnapshot(host, request());
      host.write('later');

      expect(host.runs).toBe(true);
      expect(readImage(join(directory, 'xvda.img')).tags).toEqual({ s1: 'at the snapshot' });
      expect(await readMemoryFacts(result.plan.memoryPath)).toMatchObject({ config: host.config });
      expect(statSync(result.plan.memoryPath).mode & 0o777).toBe(0o600);
      expect(result.fileBytes).toBe(statSync(result.plan.memoryPath).size);
      expect(result.pages).toBe(host.guest.memoryBytes / 4096);
      expect(host.calls.includes('saveState')).toBe(type === 'hvm');
      expect(readdirSync(join(snapshots, FAKE_UUID)).sort()).toEqual([
        's1.save',
        's1.save.cfg',
        's1.save.json',
      ]);
    },
  );

  it.each([false, true])(
    "finds a PV guest's p2m elsewhere once the guest is suspended, live: %s",
    async (live) => {
      const host = makeHost({ type: 'pv' });
      host.guest.p2mFrame = 3n;
      host.fault = (call) => {
        if (call === 'settle') host.guest.p2mFrame = 0x77n;
      };
      const { plan } = await createSnapshot(host, request({ live }));
      const file = readFileSync(plan.memoryPath);
      // X86_PV_P2M_FRAMES for 400 pfns: type 3, 16 bytes, from 0 to 399, one frame.
      const record = (frame: number): Buffer => Buffer.from(Uint32Array.of(3, 16, 0, 399, frame, 0).buffer);
      expect(file.includes(record(0x77))).toBe(true);
      expect(file.includes(record(3))).toBe(false);
      expect(await verifyFile(plan.memoryPath)).toMatchObject({ guestType: 'pv' });
    },
  );

  it('writes a cfgfile that the parser accepts and that names what was done', async () => {
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    const { plan } = await createSnapshot(host, mixed());
    expect(parseConfig(readFileSync(plan.configPath ?? '', 'utf8'), 'x')).toMatchObject({
      name: 's1',
      memoryPath: join(directory, 's1.save'),
      disks: [
        { kind: 'external', target: 'xvda', path: join(directory, 'ov.qcow2'), format: 'qcow2' },
        { kind: 'internal', target: 'xvdb' },
      ],
    });
  });

  it('resumes a guest whose stored configuration cannot be changed, since its storage hangs', async () => {
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    let release = (): void => {};
    host.fault = (call) => {
      if (call !== 'repointDisks' || !host.suspended) return;
      return new Promise((resolve) => {
        release = resolve;
      });
    };
    const error = await createSnapshot(host, mixed(), { undoTimeoutMs: 200 }).catch((reason) => reason);
    expect(error).toMatchObject({ code: 'CONFIG_HANGS', phase: 'disks', undoFailures: [] });
    expect(host.runs).toBe(true);
    expect(host.inUse.get('xvda')).toBe(join(directory, 'xvda.img'));
    expect(readImage(join(directory, 'xvdb.img')).tags).toEqual({});
    release();
  });

  it('takes internal and external snapshots in one transaction and names the overlay from then on', async () => {
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    await createSnapshot(host, mixed());
    host.write('later');
    expect(host.calls.filter((call) => call === 'snapshotDisks')).toHaveLength(1);
    expect(readImage(join(directory, 'xvda.img')).content).toBe('at start');
    expect(contentOf(join(directory, 'ov.qcow2'))).toBe('later');
    expect(readImage(join(directory, 'xvdb.img')).tags).toEqual({ s1: 'at start' });
    expect(configDisks(host.config).map((disk) => disk.path)).toEqual([
      join(directory, 'ov.qcow2'),
      join(directory, 'xvdb.img'),
    ]);
    // Stopped while it happens: the guest never runs on the overlay with a configuration that names the base.
    expect(host.calls.indexOf('repointDisks')).toBeLessThan(host.calls.indexOf('resume'));
  });

  it('leaves a paused guest paused, however often it was paused', async () => {
    const host = makeHost({ paused: true });
    host.pauses = 2;
    const { plan } = await createSnapshot(host, request());
    expect(plan.state).toBe('paused');
    expect(host.pauses).toBe(2);
    expect(host.suspended).toBe(false);
    // The guest executes no instruction between the suspend and the pause.
    expect(host.calls.lastIndexOf('pause')).toBeLessThan(host.calls.indexOf('resume'));
  });

  it('takes a diskless guest', async () => {
    const { plan } = await createSnapshot(makeHost({ disks: [] }), request());
    expect(plan.disks).toEqual([]);
  });

  it('warns of writable disks that are left out', async () => {
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    const config = parseConfig("disks=[',,xvdb']", 'x');
    const { plan } = await createSnapshot(host, request({ config }));
    expect(plan.uncovered).toEqual(['xvda']);
    expect(plan.warnings[0]).toContain('xvda');
  });

  it.each(['../up', 'a/b', '..', '.', '-x', 'a\nb', 'x'.repeat(300), '12', ''])(
    'creates no file with the name %j, whoever calls',
    async (name) => {
      const host = makeHost();
      const before = readdirSync(directory, { recursive: true });
      for (const bad of [request({ name }), request({ config: { name } })]) {
        await expect(createSnapshot(host, bad)).rejects.toMatchObject({ code: 'BAD_NAME', exitCode: 2 });
      }
      expect(readdirSync(directory, { recursive: true })).toEqual(before);
    },
  );

  it.each(['s.save', '../s.save', '/x/', '/a\0b', `/${'x'.repeat(5000)}`])(
    'writes to no path such as %j',
    async (memoryPath) => {
      const attempt = createSnapshot(makeHost(), request({ config: { memoryPath } }));
      await expect(attempt).rejects.toThrow(UsageError);
    },
  );

  it('plans without touching anything', async () => {
    const host = makeHost();
    const plan = await planCreate(host, request());
    expect(plan).toMatchObject({ name: 's1', domain: 'guest1', state: 'running', type: 'pvh' });
    expect(existsSync(snapshots)).toBe(false);
    expect(host.calls.filter((call) => !reads.has(call))).toEqual([]);
  });
});

const reads = new Set([
  'findDomain',
  'domainState',
  'domainConfig',
  'disks',
  'info',
  'version',
  'openDeviceModel',
  'openGuest',
  'staticRecords',
  'startRecords',
  'liveObstacle',
  'memoryObstacle',
  'createFindings',
  'saver',
  'imagesInUse',
]);

/** Checks what must hold whenever a create has failed. */
function expectUntouched(host: FakeHost, before: { images: string; files: string[] }): void {
  expect(host.suspended).toBe(false);
  expect(host.machineStopped).toBe(false);
  expect([host.guest.logging, host.machineLogs]).toEqual([false, false]);
  expect(images()).toEqual(before.images);
  expect(readdirSync(directory, { recursive: true }).sort()).toEqual(before.files);
  expect(configDisks(host.config).map((disk) => disk.path)).toEqual([...host.inUse.values()]);
}

function images(): string {
  return ['xvda', 'xvdb']
    .map((vdev) => join(directory, `${vdev}.img`))
    .map((path) => (existsSync(path) ? readFileSync(path, 'utf8') : ''))
    .join('\n');
}

function state(): { images: string; files: string[] } {
  return { images: images(), files: (readdirSync(directory, { recursive: true }) as string[]).sort() };
}

describe('a create that is refused', () => {
  it.each([
    ['a domain that is not there', (host: FakeHost) => (host.domid = undefined), 'DOMAIN_NOT_FOUND'],
    ['a dying domain', (host: FakeHost) => (host.dying = true), 'DOMAIN_NOT_RUNNING'],
    ['a domain that has shut down', (host: FakeHost) => (host.shutdown = 'poweroff'), 'DOMAIN_NOT_RUNNING'],
  ])('%s', async (_what, change, code) => {
    const host = makeHost();
    change(host);
    const before = state();
    const error = await failure(createSnapshot(host, request()));
    expect(error).toBeInstanceOf(DomainError);
    expect(error.code).toBe(code);
    expectUntouched(host, before);
  });

  it.each([
    ['limits without --live', { maxRounds: 3 }, 'LIVE_ONLY'],
    ['a downtime without --live', { maxDowntimeMs: 3 }, 'LIVE_ONLY'],
    ['no rounds', { live: true, maxRounds: 0 }, 'MAX_ROUNDS'],
    ['too many rounds', { live: true, maxRounds: 50 }, 'MAX_ROUNDS'],
    ['a downtime below 0', { live: true, targetDowntimeMs: -1 }, 'DOWNTIME'],
    ['a downtime that is no number', { live: true, maxDowntimeMs: Number.NaN }, 'DOWNTIME'],
  ])('%s', async (_what, more, code) => {
    const error = await failure(createSnapshot(makeHost(), request(more)));
    expect([error.code, error.exitCode]).toEqual([code, 2]);
  });

  it('external disks without qemu-img, which is needed at the end to identify a base', async () => {
    const host = makeHost();
    host.fault = (call) => {
      if (call === 'info') throw new EnvironmentError('NO_PROGRAM', 'there is no program qemu-img');
    };
    const disks = [
      { kind: 'external', target: 'xvda', path: join(directory, 'ov.qcow2'), format: 'qcow2' },
    ] as const;
    const { config, ...rest } = request({});
    const error = await failure(createSnapshot(host, { ...rest, config: { ...config, disks } }));
    expect(error.message).toContain('there is no program qemu-img');
    expect(error.phase).toBe('preflight');
    expect(host.calls).not.toContain('suspend');
  });

  it.each([
    [
      'a tag that exists',
      () => writeImage(join(directory, 'xvda.img'), { format: 'qcow2', content: '', tags: { s1: 'x' } }),
      'TAG_EXISTS',
    ],
    ['a memory file that exists', () => writeFileSync(join(directory, 's1.save'), 'precious'), 'FILE_EXISTS'],
    [
      'a partial file that exists',
      () => writeFileSync(join(directory, 's1.save.partial'), ''),
      'FILE_EXISTS',
    ],
    ['an image that no longer exists', () => rmSync(join(directory, 'xvda.img')), 'NO_IMAGE'],
    [
      'a disk that another domain writes to',
      (host: FakeHost) => {
        const [path = ''] = host.inUse.values();
        host.addDomain({ name: 'guest2', images: { xvda: path } });
      },
      'IMAGE_SHARED',
    ],
  ])('%s', async (_what, change, code) => {
    const host = makeHost();
    change(host);
    const before = state();
    const config = parseConfig(`name="s1"\nmemory_path="${directory}/s1.save"`, 'x');
    const error = await failure(createSnapshot(host, request({ config })));
    expect(error).toBeInstanceOf(PreflightError);
    expect(error.code).toBe(code);
    expect(host.calls).not.toContain('suspend');
    expect(state()).toEqual(before);
  });

  it('a disk that cannot have an internal snapshot, with what would work', async () => {
    const host = makeHost({
      disks: [
        { vdev: 'xvda', internal: [{ code: 'RAW', message: 'disk xvda: it is raw', hint: 'external' }] },
      ],
    });
    expect(await failure(createSnapshot(host, request()))).toMatchObject({ code: 'RAW', hint: 'external' });
  });

  it('a disk that the domain does not have', async () => {
    const config = parseConfig("disks=[',,xvdz']", 'x');
    expect(await failure(createSnapshot(makeHost(), request({ config })))).toMatchObject({
      code: 'NO_SUCH_DISK',
    });
  });

  it('reports several obstacles at once', async () => {
    writeFileSync(join(directory, 's1.save'), '');
    const config = parseConfig(`name="s1"\nmemory_path="${directory}/s1.save"\ndisks=[',,xvdz']`, 'x');
    const error = await failure(createSnapshot(makeHost(), request({ config })));
    expect(error.message).toContain('xvdz');
    expect(error.message).toContain('s1.save');
  });
});

describe('a create that cannot begin', () => {
  it('is refused live if the host has no dirty log for such a guest', async () => {
    const host = makeHost({ type: 'pv' });
    host.liveObstacle = { code: 'NO_LIVE', message: 'no shadow paging' };
    const before = state();
    expect(await failure(createSnapshot(host, request({ live: true })))).toMatchObject({
      code: 'NO_LIVE',
      phase: 'preflight',
      exitCode: 5,
    });
    expect(host.calls.filter((call) => !reads.has(call) && call !== 'lock')).toEqual([]);
    expectUntouched(host, before);
    await createSnapshot(host, request());
  });

  it('a create touches nothing while another operation holds the lock', async () => {
    const host = makeHost();
    const before = state();
    host.locked = true;
    expect(await failure(createSnapshot(host, request()))).toMatchObject({
      code: 'DOMAIN_BUSY',
      phase: 'lock',
    });
    expect(host.calls.filter((call) => !reads.has(call) && call !== 'lock')).toEqual([]);
    expectUntouched(host, before);
  });

  it('and says so also while that has suspended the guest', async () => {
    const host = makeHost();
    host.locked = true;
    host.suspended = true;
    expect((await failure(createSnapshot(host, request()))).code).toBe('DOMAIN_BUSY');
    host.locked = false;
    expect((await failure(createSnapshot(host, request()))).code).toBe('DOMAIN_NOT_RUNNING');
  });

  it('a guest that another program has suspended is left to that program', async () => {
    const host = makeHost();
    // `xl save` begins between the plan and the suspend.
    host.fault = (call) => {
      if (call === 'staticRecords') host.suspended = true;
    };
    expect(await failure(createSnapshot(host, request()))).toMatchObject({ code: 'SUSPEND_OTHER' });
    expect(host.suspended).toBe(true);
    expect(host.calls).not.toContain('resume');
  });
});

describe('a guest that does not stay suspended until the snapshot is taken', () => {
  /** The end of another program's `xl save -c`, or an `xl destroy`. */
  const OTHERS = {
    'is resumed by another program': {
      code: 'RESUMED_BY_OTHER',
      act: (host: FakeHost) => {
        host.suspended = false;
      },
    },
    'is destroyed': {
      code: 'DOMAIN_GONE',
      act: (host: FakeHost) => {
        host.suspended = false;
        host.domid = undefined;
        host.inUse.clear();
      },
    },
  } as const;

  // The fake guest refuses to be read while it runs; Xen does not.
  it.each([
    ...(['stateRecords', 'snapshotDisks', 'repointDisks'] as const).map(
      (when) => ['is resumed by another program', when] as const,
    ),
    ...(['saveState', 'settle', 'stateRecords', 'snapshotDisks', 'repointDisks'] as const).map(
      (when) => ['is destroyed', when] as const,
    ),
  ])('%s during %s: there is no snapshot, and nothing left of it', async (what, when) => {
    const host = makeHost({ type: 'hvm', disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    const before = readdirSync(directory);
    let acted = false;
    host.after = (call) => {
      if (call === when && !acted) OTHERS[what].act(host);
      acted ||= call === when;
    };
    host.fault = (call) => {
      const needsQemu = ['snapshotDisks', 'undoSnapshots', 'cont', 'saveState'].includes(call);
      if (needsQemu && host.domid === undefined) throw new Error('QEMU is gone');
    };
    const error = await failure(createSnapshot(host, mixed()));
    expect(error.code).toBe(OTHERS[what].code);
    expect(error.undoFailures).toEqual([]);
    expect(error.undone.includes('resumed the guest')).toBe(what === 'is resumed by another program');
    expect(readdirSync(directory)).toEqual(before);
    expect(readImage(join(directory, 'xvdb.img')).tags).toEqual({});
    expect(host.runs).toBe(what === 'is resumed by another program');
  });

  it.each([
    ['keeps running', true],
    ['no longer exists', false],
  ])('a create breaks off if QEMU dies after it has taken the disks, and the domain %s', async (_, lives) => {
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    const before = readdirSync(directory);
    host.after = (call) => {
      if (call !== 'snapshotDisks') return;
      if (!lives) OTHERS['is destroyed'].act(host);
      throw new Error('connection closed');
    };
    const error = await failure(createSnapshot(host, mixed()));
    expect(error).toMatchObject({ code: lives ? 'UNEXPECTED' : 'DOMAIN_GONE', undoFailures: [] });
    expect(readdirSync(directory)).toEqual(before);
    expect(readImage(join(directory, 'xvdb.img')).tags).toEqual({});
    expect(host.runs).toBe(lives);
  });

  it('has what an earlier merge left open closed before it is suspended', async () => {
    const host = makeHost();
    host.own.unclosed.set('xvda', join(directory, 'merged.qcow2'));
    await createSnapshot(host, { domain: 'guest1', name: 's1' });
    expect(host.own.unclosed.size).toBe(0);
    const at = ['prepareSnapshot', 'suspend', 'snapshotDisks'].map((call) => host.calls.indexOf(call));
    expect(at).toEqual([...at].sort((one, other) => one - other));
    expect(at[0]).toBeGreaterThan(0);
  });

  it('its QEMU dies before it takes the disks: there is nothing to undo', async () => {
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    host.fault = (call) => {
      if (/snapshotDisks|undoSnapshots/.test(call)) throw new Error('QEMU is gone');
    };
    const error = await failure(createSnapshot(host, mixed()));
    expect(error).toMatchObject({ message: 'QEMU is gone', undoFailures: [] });
    expect(host.runs).toBe(true);
  });

  it('is left to the program that already saves it', async () => {
    const host = makeHost();
    host.saver = 4711;
    const error = await failure(createSnapshot(host, request()));
    expect(error).toMatchObject({ code: 'BEING_SAVED', message: expect.stringContaining('pid 4711') });
    expect(host.calls).not.toContain('suspend');
    expect(filesIn(directory)).toEqual(['xvda.img']);
  });

  it('has its dirty log taken over by a save that began during a live create', async () => {
    const host = makeHost();
    host.after = (call) => {
      if (call === 'startDirtyLog') host.saver = 4711;
    };
    const error = await failure(createSnapshot(host, request({ live: true })));
    expect(error).toMatchObject({ code: 'BEING_SAVED', undoFailures: [] });
    expect(host.runs).toBe(true);
    // The other program needs it, and turns it off itself.
    expect(host.calls).not.toContain('stopDirtyLog');
    expect(filesIn(directory)).toEqual(['xvda.img']);
  });
});

describe('a create that fails', () => {
  it('gives the guardian its journal before anything takes effect', async () => {
    const host = makeHost();
    const told: unknown[] = [];
    host.fault = (call) => {
      if (call === 'staticRecords') told.push(...host.guarded);
    };
    const { plan } = await createSnapshot(host, request());
    expect(told).toEqual([{ journal: `${plan.memoryPath}.journal` }]);
    expect(host.guarded.size).toBe(0);
  });

  it('uses a guardian that runs already, starts none besides, and dismisses it at the end', async () => {
    const host = makeHost();
    const told: string[] = [];
    const guardian = { watch: (path: string) => told.push(path), dismiss: () => told.push('dismissed') };
    host.fault = (call) => {
      if (call === 'staticRecords') told.push(`guardians: ${host.guarded.size}`);
    };
    const { plan } = await createSnapshot(host, { ...request(), guardian });
    expect(told).toEqual([`${plan.memoryPath}.journal`, 'guardians: 0', 'dismissed']);
  });

  it('dismisses a guardian that runs already if it does not get the lock', async () => {
    const host = makeHost();
    const told: string[] = [];
    const guardian = { watch: (path: string) => told.push(path), dismiss: () => told.push('dismissed') };
    await expect(createSnapshot(host, { ...request(), domain: 'none', guardian })).rejects.toThrow();
    expect(told).toEqual(['dismissed']);
  });

  it.each(['s1.save', 's1.save.cfg', 's1.save.json'])(
    'a create leaves a %s that another program created',
    async (name) => {
      const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
      host.fault = (call) => {
        if (call === 'resume') writeFileSync(join(directory, name), 'precious');
      };
      const error = await failure(createSnapshot(host, mixed()));
      expect(error.code).toBe('OUTPUT_EXISTS');
      expect(readFileSync(join(directory, name), 'utf8')).toBe('precious');
      expect(filesIn(directory)).toEqual([name, 'xvda.img', 'xvdb.img']);
    },
  );

  it('reports the phase and what was undone', async () => {
    const host = makeHost();
    host.fault = (call) => {
      if (call === 'snapshotDisks') throw new Error('no');
    };
    const error = await failure(createSnapshot(host, request()));
    expect(error.phase).toBe('disks');
    expect(error.undone).toEqual([
      'resumed the guest',
      expect.stringContaining('removed'),
      expect.stringContaining('removed the directory'),
    ]);
  });

  it('a create reports an undo that fails, with what to do by hand, and does the others', async () => {
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    host.fault = (call) => {
      if (call === 'repointDisks' || call === 'undoSnapshots') throw new Error(`no ${call}`);
    };
    const error = await failure(createSnapshot(host, mixed()));
    expect(error.message).toContain('no repointDisks');
    expect(error.undoFailures).toHaveLength(3);
    for (const told of error.undoFailures.slice(0, 2)) expect(told).toMatch(/no undoSnapshots.*by hand/);
    expect(host.runs).toBe(true);
    expect(existsSync(join(directory, 's1.save'))).toBe(false);
    // The journal stays, and recover does what could not be done before.
    const memoryPath = join(directory, 's1.save');
    expect(error.undoFailures[2]).toContain(`xlsnap recover ${memoryPath}`);
    host.fault = () => {};
    expect(await failure(createSnapshot(host, mixed()))).toMatchObject({
      message: expect.stringContaining(`xlsnap recover ${memoryPath}`),
    });
    await recoverSnapshot(host, { path: memoryPath });
    expect(filesIn(directory)).toEqual(['xvda.img', 'xvdb.img']);
    await createSnapshot(host, mixed());
    expect(host.runs).toBe(true);
  });
});

describe('the page cache', () => {
  let names = 0;

  /** Whether a create's pages were to be written past it. */
  async function isDirect(
    room: (memory: number) => number,
    { tuning, sync = false, live = false }: { tuning?: Tuning; sync?: boolean; live?: boolean } = {},
  ): Promise<boolean> {
    const host = makeHost();
    host.dirtyRoom = () => room(host.guest.memoryBytes);
    const direct: boolean[] = [];
    const pack = host.guest.packPages.bind(host.guest);
    vi.spyOn(host.guest, 'packPages').mockImplementation((...args) => {
      const [fd, , , , { directFd } = {}] = args as Parameters<Guest['packPages']>;
      if (!isNowhere(fd)) direct.push(directFd !== undefined && directFd !== fd);
      return pack(...args);
    });
    const { plan } = await createSnapshot(host, request({ name: `s${names++}`, tuning, sync, live }));
    expect((await verifyFile(plan.memoryPath)).checksums).toBe('right');
    expect(new Set(direct).size).toBe(1);
    return direct[0] ?? false;
  }

  it('is left out if a guest has more than four times the memory that it takes', async () => {
    for (const options of [{}, { live: true, sync: true }]) {
      expect(await isDirect((memory) => memory / 4, options)).toBe(false);
      expect(await isDirect((memory) => memory / 4 - 1, options)).toBe(true);
    }
  });

  it('is used or left out if the tuning says so', async () => {
    expect(await isDirect((memory) => memory, { tuning: { direct: true } })).toBe(true);
    expect(await isDirect(() => 0, { tuning: { direct: false } })).toBe(false);
  });
});

describe('a live create', () => {
  it.each(['pvh', 'hvm'] as const)(
    'copies a %s guest while it runs, and the rest while it is stopped',
    async (type) => {
      const host = makeHost({ type });
      host.fault = (call) => keepWriting(host, call);
      const result = await createSnapshot(host, request({ live: true }));
      expect(result.plan).toMatchObject({ live: true, precopy: { maxRounds: 5 } });
      expect(result.rounds?.length).toBeGreaterThan(2);
      expect(result.rounds?.[0]?.pages).toBe(result.pages);
      expect(result.rounds?.at(-1)).toMatchObject({ pages: 60, dirtyAfter: 0 });
      expect(result.phases.map(({ name }) => name)).toContain('precopy');
      expect(await readMemoryFacts(result.plan.memoryPath)).toMatchObject({ config: host.config });
      expect([host.runs, host.guest.logging, host.machineLogs]).toEqual([true, false, false]);
      const of = (name: string): number => host.calls.indexOf(name);
      expect(of('startDirtyLog')).toBeLessThan(of('packPages'));
      expect(of('packPages')).toBeLessThan(of('suspend'));
      expect(of('resume')).toBeLessThan(of('stopDirtyLog'));
      expect(host.calls.filter((call) => call.startsWith('logDirty'))).toEqual(
        type === 'hvm' ? ['logDirty true', 'logDirty true', 'logDirty false'] : [],
      );
      // QEMU's last writes are in the log before it is taken for the last time.
      if (type === 'hvm') {
        expect(of('logDirty true')).toBeLessThan(of('startDirtyLog'));
        expect(of('saveState')).toBeLessThan(host.calls.lastIndexOf('takeDirty'));
      }
    },
  );

  it.each(['pvh', 'hvm'] as const)('of a %s guest has a timeline', async (type) => {
    const host = makeHost({ type });
    const { phases, downtimeSeconds, totalSeconds } = await createSnapshot(host, request({ live: true }));
    expect(phases.map(({ name }) => name)).toEqual([
      'lock',
      'plan',
      'preflight',
      'open',
      'prepare',
      'precopy',
      'suspend',
      ...(type === 'hvm' ? ['device-model'] : []),
      'memory',
      'contexts',
      'disks',
      'resume',
      'finish',
    ]);
    let end = 0;
    for (const { startSeconds, seconds } of phases) {
      expect(startSeconds).toBeGreaterThanOrEqual(end);
      end = startSeconds + seconds;
    }
    expect(totalSeconds).toBeGreaterThanOrEqual(end);
    const at = (name: string): number => phases.findIndex((phase) => phase.name === name);
    const stopped = phases.slice(at('suspend') + 1, at('finish'));
    expect(downtimeSeconds).toBeGreaterThanOrEqual(stopped.reduce((sum, { seconds }) => sum + seconds, 0));
    expect(downtimeSeconds).toBeLessThan(totalSeconds - (phases[at('suspend')]?.startSeconds ?? 0));
  });

  it('gives up if it would stop the guest for too long, without having stopped it', async () => {
    const host = makeHost();
    host.fault = (call) => keepWriting(host, call);
    const before = state();
    const error = await failure(
      createSnapshot(host, request({ live: true, maxDowntimeMs: 0, maxRounds: 2 })),
    );
    expect(error).toMatchObject({
      code: 'DOWNTIME_LIMIT',
      exitCode: 6,
      phase: 'precopy',
      // One of them is the log's own mark.
      data: { maxDowntimeMs: 0, dirtyPages: 61, rounds: [{ pages: 300 }, { pages: 61, dirtyAfter: 61 }] },
    });
    expect(host.calls).not.toContain('suspend');
    expectUntouched(host, before);
  });

  it('is complete, with a warning, if the log cannot be turned off', async () => {
    const host = makeHost({ type: 'hvm' });
    host.fault = (call) => {
      if (call === 'stopDirtyLog') throw new Error('no');
    };
    const result = await createSnapshot(host, request({ live: true }));
    expect(result.warnings).toEqual([expect.stringContaining('log-dirty')]);
    // The other one is off.
    expect(host.machineLogs).toBe(false);
    expect(existsSync(result.plan.memoryPath)).toBe(true);
  });
});

describe('the guest resumes first', () => {
  it('a stopped guest resumes by itself although no write of its memory ends', async () => {
    const host = makeHost();
    const abort = new AbortController();
    let end = (): void => {};
    const hung = new Promise<void>((resolve) => {
      end = resolve;
    });
    host.guest.beforeWrite = () => hung;
    const create = createSnapshot(host, request(), { signal: abort.signal });
    await vi.waitFor(() => expect(host.calls).toContain('resume'));
    await vi.waitFor(() => expect(host.runs).toBe(true));
    expect(readImage(join(directory, 'xvda.img')).tags).toHaveProperty('s1');
    abort.abort();
    setTimeout(end, 50);
    expect(await failure(create)).toMatchObject({ code: 'INTERRUPTED', undoFailures: [] });
    expect(readImage(join(directory, 'xvda.img')).tags).toEqual({});
    expect(filesIn(directory)).toEqual(['xvda.img']);
  });

  it('no write of memory begins while the disks are snapshotted', async () => {
    const host = makeHost({ guest: new FakeGuest(new Uint8Array(12 * 1022)) });
    const begun: string[] = [];
    host.guest.beforeWrite = async () => {
      begun.push(host.calls.at(-1) ?? '');
      // The first is so slow that the others are not waited for.
      await new Promise((resolve) => setTimeout(resolve, begun.length === 1 ? 200 : 20));
    };
    let before = 0;
    host.fault = async (call) => {
      if (call !== 'snapshotDisks') return;
      before = begun.length;
      await new Promise((resolve) => setTimeout(resolve, 100));
      // One may have been under way.
      expect(begun.length).toBe(before);
    };
    const { plan } = await createSnapshot(host, request());
    expect(before).toBeLessThan(12);
    expect(begun).toHaveLength(12);
    expect((await verifyFile(plan.memoryPath)).checksums).toBe('right');
  });

  it('a write of memory that fails when the guest runs again undoes the disks, too', async () => {
    const host = makeHost();
    host.guest.beforeWrite = async () => {
      await vi.waitFor(() => expect(host.calls).toContain('announceResume'));
      throw new OutputError('OUTPUT_WRITE', 'planted');
    };
    expect(await failure(createSnapshot(host, request()))).toMatchObject({
      code: 'OUTPUT_WRITE',
      phase: 'finish',
      undoFailures: [],
    });
    expect(host.runs).toBe(true);
    expect(readImage(join(directory, 'xvda.img')).tags).toEqual({});
    expect(filesIn(directory)).toEqual(['xvda.img']);
  });

  it('the guest resumes when a write hangs and the create is interrupted, long before the write is given up', async () => {
    const host = new FakeHost({ directory, type: 'hvm' });
    const abort = new AbortController();
    let end = (): void => {};
    let noted = '';
    host.fault = (call) => {
      if (call === 'resume') noted = readFileSync(join(directory, 's1.save.journal'), 'utf8');
      if (call !== 'packPages') return;
      return new Promise<void>((resolve) => {
        end = resolve;
      });
    };
    const create = createSnapshot(
      host,
      { domain: 'guest1', config: parseConfig(`name="s1"\nmemory_path="${directory}/s1.save"`, 'c') },
      { signal: abort.signal, graceMs: 600_000 },
    );
    await vi.waitFor(() => expect(host.calls).toContain('packPages'));
    abort.abort();
    await vi.waitFor(() => expect(host.runs && !host.machineStopped).toBe(true));
    expect(noted).not.toContain('undoing');
    end();
    expect(await failure(create)).toMatchObject({ code: 'INTERRUPTED', undoFailures: [] });
    expect(filesIn(directory)).toEqual(['xvda.img']);
  });

  it('the guest resumes before the disks are undone', async () => {
    const host = new FakeHost({ directory });
    host.fault = (call) => {
      if (call === 'undoSnapshots') expect(host.runs).toBe(true);
    };
    host.hypervisor.resume = ((resume) => async (domid) => {
      await resume(domid);
      host.hypervisor.resume = resume;
      throw new Error('planted');
    })(host.hypervisor.resume);
    await failure(createSnapshot(host, { domain: 'guest1', name: 's1', snapshotDir: snapshots }));
    expect(host.calls).toContain('undoSnapshots');
    expect(host.runs).toBe(true);
  });

  it('a xenstored that does not answer does not undo a good snapshot; recover informs it later', async () => {
    const host = new FakeHost({ directory });
    host.fault = (call) => {
      if (call === 'announceResume') throw new Error('no xenstore');
    };
    const result = await createSnapshot(host, { domain: 'guest1', name: 's1', snapshotDir: snapshots });
    expect(result.warnings).toEqual([expect.stringMatching(/xenstored was not informed.*xlsnap recover/s)]);
    expect([host.runs, host.unannounced]).toEqual([true, true]);
    host.fault = () => {};
    await recoverAll(host, snapshots);
    expect(host.unannounced).toBe(false);
    expect(existsSync(result.plan.memoryPath)).toBe(true);
    expect(existsSync(host.runDirectory)).toBe(false);
  });

  it.each(['domainState', 'findByName', 'findDomain', 'announceResume'])(
    'the guest resumes although xenstore no longer answers, as to %s',
    async (broken) => {
      const host = new FakeHost({ directory });
      host.fault = (call) => {
        if (!host.suspended && !host.unannounced) return;
        if (call === broken) throw new Error('no xenstore');
        if (call === 'settle') throw new Error('planted');
      };
      const error = await failure(
        createSnapshot(host, { domain: 'guest1', name: 's1', snapshotDir: snapshots }),
      );
      expect(error.undone).toContain('resumed the guest');
      expect(host.runs).toBe(true);
    },
  );

  it('a live file gets nothing at all between suspend and resume, nor does its journal', async () => {
    const guest = new FakeGuest(new Uint8Array(400).fill(15, 200, 232).fill(15, 332));
    const host = new FakeHost({ directory, guest });
    const sizes = new Map<string, unknown>();
    let packed = 0;
    host.fault = (call) => {
      keepWriting(host, call);
      if (call === 'suspend') {
        // Pages that come, go, and become page tables: each of them changes more in the file than its own place.
        for (let pfn = 340; pfn < 380; pfn++) guest.setType(pfn, 0);
        guest.setType(5, 15);
        guest.setType(6, 13);
        guest.setType(7, 1);
      }
      if (call !== 'settle' && call !== 'resume') return;
      const { mtimeNs, size } = statSync(join(directory, 's1.save.partial'), { bigint: true });
      sizes.set(call, { mtimeNs, size, journal: statSync(join(directory, 's1.save.journal')).size });
      if (call === 'settle') packed = guest.calls.packed.length;
      else expect(guest.calls.packed.length).toBe(packed);
    };
    const config = parseConfig(`name="s1"\nmemory_path="${directory}/s1.save"`, 'c');
    const result = await createSnapshot(host, { domain: 'guest1', config, live: true });
    expect(sizes.get('resume')).toEqual(sizes.get('settle'));
    expect(result).toMatchObject({ pagesWrittenStopped: 0, warnings: [] });
  });

  it('a warning says what a live file gets while the guest is stopped, for lack of memory', async () => {
    const host = new FakeHost({ directory });
    host.spareMemory = () => 4096;
    host.fault = (call) => keepWriting(host, call);
    const config = parseConfig(`name="s1"\nmemory_path="${directory}/s1.save"`, 'c');
    const result = await createSnapshot(host, { domain: 'guest1', config, live: true });
    expect(result.pagesWrittenStopped).toBe(60);
    expect(result.warnings).toEqual([expect.stringContaining('1 MiB of memory were written while')]);
  });
});

describe('a guest whose memory map grows before it is suspended', () => {
  const grown = new Uint8Array(50).fill(15, 0, 10);
  const config = () => parseConfig(`name="s1"\nmemory_path="${directory}/s1.save"`, 'c');

  it('a guest whose memory map has grown is saved with its new pages', async () => {
    const host = makeHost();
    host.after = (call) => {
      if (call === 'suspend') host.guest.grow(grown);
    };
    const { pages, plan } = await createSnapshot(host, { domain: 'guest1', config: config() });
    expect(pages).toBe(300 + 40);
    expect(await readMemoryFacts(plan.memoryPath)).toMatchObject({ pages: 340 });
  });

  it('is sent completely to a stream', async () => {
    const host = makeHost();
    host.after = (call) => {
      if (call === 'suspend') host.guest.grow(grown);
    };
    const sink = async (): Promise<void> => {};
    expect(await createSnapshot(host, { domain: 'guest1', name: 's1', sink })).toMatchObject({ pages: 340 });
  });

  it('is refused if part of it has been copied already', async () => {
    const host = makeHost();
    host.after = (call) => {
      if (call === 'suspend') host.guest.grow(grown);
    };
    const create = createSnapshot(host, { domain: 'guest1', config: config(), live: true });
    expect((await failure(create)).code).toBe('P2M_RESIZED');
    expect(host.runs).toBe(true);
  });
});

describe('a guest whose p2m is mostly empty', () => {
  const CHUNK = 16 * 1024;
  const small = () => new FakeGuest(new Uint8Array(4 * CHUNK).fill(15, 200));
  const config = () => parseConfig(`name="s1"\nmemory_path="${directory}/s1.save"`, 'c');

  it('is saved with a page that comes to an empty part right before its suspend', async () => {
    const host = makeHost({ guest: small() });
    host.after = (call) => {
      if (call === 'suspend') host.guest.setType(2 * CHUNK + 7, 0);
    };
    const { pages, plan } = await createSnapshot(host, { domain: 'guest1', config: config() });
    expect(pages).toBe(201);
    expect(await readMemoryFacts(plan.memoryPath)).toMatchObject({ pages: 201 });
  });

  /** A page moves while the guest is surveyed, from what is still to be looked at to what has been. */
  function movesUnseen(host: FakeHost): void {
    const { guest } = host;
    const { pageTypesFrom } = guest;
    guest.setType(3 * CHUNK + 7, 0);
    guest.pageTypesFrom = async (first, count) => {
      if (first === 3 * CHUNK && host.runs) {
        guest.setType(3 * CHUNK + 7, 15);
        guest.setType(2 * CHUNK + 7, 0);
      }
      return await pageTypesFrom.call(guest, first, count);
    };
  }

  it('leaves no snapshot if a page was missed', async () => {
    const host = makeHost({ guest: small() });
    const before = readdirSync(directory);
    movesUnseen(host);
    const error = await failure(createSnapshot(host, { domain: 'guest1', config: config() }));
    expect(error).toMatchObject({ code: 'P2M_RESIZED', phase: 'finish', undoFailures: [] });
    expect(readdirSync(directory)).toEqual(before);
    expect(host.runs).toBe(true);
  });

  it('keeps its snapshot if it is destroyed as soon as it runs again', async () => {
    const host = makeHost({ guest: small() });
    host.after = (call) => {
      if (call === 'announceResume') host.domid = undefined;
    };
    const { pages } = await createSnapshot(host, { domain: 'guest1', config: config() });
    expect(pages).toBe(200);
  });
});
