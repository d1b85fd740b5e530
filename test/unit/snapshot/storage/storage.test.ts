/** Snapshots that a disk's own storage takes, from the create to the delete. */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import { readConfigFile } from '../../../../src/config/read.ts';
import { toDomid } from '../../../../src/core/brand.ts';
import type { XlsnapError } from '../../../../src/core/errors.ts';
import { configDisks } from '../../../../src/memfile/libxl-config.ts';
import { readManifest } from '../../../../src/memfile/manifest.ts';
import type { CreateResult } from '../../../../src/snapshot/api.ts';
import { createSnapshot, planCreate } from '../../../../src/snapshot/create/create.ts';
import { examineDomain } from '../../../../src/snapshot/create/examine.ts';
import { deleteSnapshots } from '../../../../src/snapshot/delete/delete.ts';
import { listSnapshots } from '../../../../src/snapshot/list/list.ts';
import { recoverSnapshot } from '../../../../src/snapshot/recover.ts';
import { revertSnapshot } from '../../../../src/snapshot/revert/revert.ts';
import { contentOf, FakeHost, readImage, writeImage } from '../../../../src/testing/fake-host.ts';
import { failure, fastDirectory, filesOf, keepWriting } from '../../../support/scene.ts';

let directory: string;
let host: FakeHost;
beforeEach(() => {
  directory = fastDirectory('xlsnap-storage-');
  host = new FakeHost({
    directory,
    disks: [{ vdev: 'xvda', on: 'thin' }, { vdev: 'xvdb', on: 'file' }, { vdev: 'xvdc' }],
  });
});
afterEach(() => {
  expect(host.harm).toEqual([]);
  rmSync(directory, { recursive: true });
});

const volume = (): string => join(directory, 'vg', 'guest1-xvda');
const image = (vdev: string): string => join(directory, `${vdev}.img`);
const volumes = (): string[] => readdirSync(join(directory, 'vg')).sort();
const contents = (): string[] => configDisks(host.config).map(({ path }) => contentOf(path ?? ''));

async function create(config = `name="s1"\nmemory_path="${directory}/s1.save"`): Promise<CreateResult> {
  return await createSnapshot(host, { domain: 'guest1', config: parseConfig(config, 'x.cfg'), sync: false });
}

async function revert(force = false) {
  return await revertSnapshot(host, {
    domain: 'guest1',
    config: await readConfigFile(`${directory}/s1.save.cfg`),
    force,
  });
}

describe('a domain with a thin volume, a raw file and a qcow2 image', () => {
  it.each([
    ['xvda', volume],
    ['xvdb', () => image('xvdb')],
  ])('is not snapshotted while another domain writes to %s', async (vdev, path) => {
    host.othersUse.push(path());
    const before = filesOf(directory);
    const error = await failure(create());
    expect(error).toMatchObject({
      code: 'IMAGE_SHARED',
      hint: `leave ${vdev} out of disks, or first shut it down`,
    });
    expect(error.message).toContain('domain other');
    expect(filesOf(directory)).toEqual(before);
    expect(host.calls).not.toContain('suspend');
  });

  it('is snapshotted without a cfgfile, each disk where it is, and QEMU comes last', async () => {
    host.write('at the snapshot');
    const { plan } = await create();
    expect(plan.disks).toEqual([
      {
        kind: 'storage',
        vdev: 'xvda',
        storage: 'lvm-thin',
        image: volume(),
        snapshot: expect.stringMatching(/\/vg\/guest1-xvda\.s1-[0-9a-f]{6}$/) as string,
      },
      {
        kind: 'storage',
        vdev: 'xvdb',
        storage: 'reflink',
        image: image('xvdb'),
        snapshot: `${image('xvdb')}.s1`,
      },
      { kind: 'internal', vdev: 'xvdc', image: image('xvdc'), tag: 's1' },
    ]);
    const taken = ['lvcreate', 'clone', 'snapshotDisks'].map((call) => host.calls.indexOf(call));
    expect(taken).toEqual([...taken].sort((a, b) => a - b));
    const suspended = host.calls.indexOf('suspend');
    expect(host.calls.indexOf('flush')).toBeLessThan(suspended);
    expect(host.calls.indexOf('flush volume')).toBeLessThan(suspended);
    expect(Math.min(...taken)).toBeGreaterThan(suspended);
    expect(readFileSync(`${directory}/s1.save.cfg`, 'utf8')).toContain('",,xvda"');
    const manifest = await readManifest(`${directory}/s1.save.json`);
    expect(manifest?.identities).toMatchObject([
      { vdev: 'xvda', snapshot: expect.stringMatching(/^uuid-/) as string },
      { vdev: 'xvdb', snapshot: expect.stringMatching(/^\d+ [\d.]+$/) as string },
      { vdev: 'xvdc', tag: { id: expect.any(String) as string } },
    ]);
  });

  it('has its slow steps done before the memory is copied, and its caches written out right before the suspend, if that is live', async () => {
    host = new FakeHost({
      directory,
      disks: [
        { vdev: 'xvda', on: 'linear' },
        { vdev: 'xvdb', on: 'file' },
      ],
    });
    host.fault = (call) => keepWriting(host, call);
    await createSnapshot(host, { domain: 'guest1', live: true, sync: false });
    const at = (call: string): number => host.calls.indexOf(call);
    expect(at('lvcreate store')).toBeLessThan(at('packPages'));
    for (const call of ['flush', 'flush volume']) {
      expect(at(call)).toBeLessThan(at('packPages'));
      expect(host.calls.slice(host.calls.lastIndexOf('packPages', at('suspend')))).toContain(call);
      expect(host.calls.lastIndexOf(call)).toBeLessThan(at('suspend'));
    }
  });

  it('is reverted any number of times, and its disks keep their names', async () => {
    host.write('at the snapshot');
    await create();
    for (const later of ['later', 'later still', 'with the domain down']) {
      host.write(later);
      if (later === 'with the domain down') {
        await host.toolstack.destroy(host.domid ?? toDomid(0), { timeoutMs: 1 });
      }
      const { warnings } = await revert();
      expect(warnings).toEqual([]);
      expect(host.runs).toBe(true);
      expect(contents()).toEqual(['at the snapshot', 'at the snapshot', 'at the snapshot']);
      expect(volumes()).toHaveLength(2);
      expect(readdirSync(directory).filter((name) => /before-|fresh-/.test(name))).toEqual([]);
    }
  });

  it('keeps what a revert replaces with --keep', async () => {
    await create();
    host.write('later');
    const config = await readConfigFile(`${directory}/s1.save.cfg`);
    const { kept } = await revertSnapshot(host, { domain: 'guest1', config, keep: true });
    expect(kept).toHaveLength(2);
    for (const path of kept) expect(contentOf(path)).toBe('later');
  });

  it('has its snapshots listed and deleted while it runs, and the others stay', async () => {
    host.write('at the snapshot');
    await create();
    await create(`name="s2"\nmemory_path="${directory}/s2.save"`);
    const { snapshots } = await listSnapshots(host);
    expect(snapshots.map(({ name, revert }) => [name, revert])).toEqual([
      ['s1', 'possible'],
      ['s2', 'possible'],
    ]);
    await deleteSnapshots(host, { domain: 'guest1', snapshots: ['s2'] });
    expect(volumes()).toEqual(['guest1-xvda', expect.stringMatching(/\.s1-/)]);
    expect(existsSync(`${image('xvdb')}.s2`)).toBe(false);
    host.write('later');
    await revert();
    expect(contents()).toEqual(['at the snapshot', 'at the snapshot', 'at the snapshot']);
  });

  it('is examined without anything being changed', async () => {
    const before = filesOf(directory);
    const { possible, byDefault, disks } = await examineDomain(host, 'guest1');
    expect({ possible, byDefault }).toEqual({ possible: true, byDefault: true });
    expect(disks).toMatchObject([
      { vdev: 'xvda', storage: 'LVM thin snapshot', obstacles: [] },
      { vdev: 'xvdb', storage: 'clone', obstacles: [] },
      { vdev: 'xvdc', internal: true },
    ]);
    expect(filesOf(directory)).toEqual(before);
  });
});

it('a clone goes where the cfgfile says', async () => {
  const path = join(directory, 'elsewhere.raw');
  const { plan } = await create(
    `name="s1"\nmemory_path="${directory}/s1.save"\ndisks=['${path},raw,xvdb', ',,xvda', ',,xvdc']`,
  );
  expect(plan.disks[0]).toMatchObject({ storage: 'reflink', snapshot: path });
  host.write('later');
  await revert();
  expect(contents()).toEqual(['at start', 'at start', 'at start']);
});

describe('a create is refused, and changes nothing,', () => {
  const full = { dataPercent: 99.5, metadataPercent: 3, health: '' };
  it.each<[string, (host: FakeHost) => void, string, RegExp]>([
    [
      'if the pool is full',
      (host) => void Object.assign(host.volumes, { pool: full }),
      'LVM_POOL_FULL',
      /99.5 %/,
    ],
    [
      'if the pool fails',
      (host) =>
        void Object.assign(host.volumes, {
          pool: { dataPercent: 1, metadataPercent: 1, health: 'out_of_data' },
        }),
      'LVM_POOL_FULL',
      /out_of_data/,
    ],
    [
      'if udevd does not run',
      (host) => void Object.assign(host.volumes, { obstacle: 'udevd does not run' }),
      'LVM_CANNOT',
      /udevd does not run/,
    ],
    [
      'if the file system has no reflinks',
      (host) => void Object.assign(host, { cloneObstacle: 'the file system of /srv has no reflinks' }),
      'NO_REFLINK',
      /has no reflinks/,
    ],
  ])('%s', async (_what, break_, code, message) => {
    break_(host);
    const before = filesOf(directory);
    expect(await failure(create())).toMatchObject({
      exitCode: 5,
      code,
      message: expect.stringMatching(message) as string,
    });
    expect(filesOf(directory)).toEqual(before);
    expect(host.calls).not.toContain('suspend');
    const { possible, byDefault, disks, warnings } = await examineDomain(host, 'guest1');
    // QEMU can still put overlays on them.
    expect({ possible, byDefault, warnings }).toEqual({ possible: true, byDefault: false, warnings: [] });
    expect(disks.flatMap(({ obstacles }) => obstacles.map((one) => one.code))).toContain(code);
  });

  it('with a hint at an overlay where QEMU can put one on the disk', async () => {
    host.cloneObstacle = 'the file system of /srv has no reflinks';
    const { hint } = (await failure(create())) as XlsnapError;
    expect(hint).toMatch(/overlay\.qcow2,qcow2,xvdb.*or keep the image on XFS or btrfs/);
  });

  it.each([
    [
      "for a clone of a volume: '/x.raw,raw,xvda'",
      (at: string) => `'${at}/x.raw,raw,xvda'`,
      'NOT_A_RAW_FILE',
    ],
    [
      "for a clone of a qcow2 image: '/x.raw,raw,xvdc'",
      (at: string) => `'${at}/x.raw,raw,xvdc'`,
      'NOT_A_RAW_FILE',
    ],
    [
      'for a clone in a directory that is not there',
      (at: string) => `'${at}/no/x.raw,raw,xvdb'`,
      'NO_DIRECTORY',
    ],
    ['for a clone in the place of a file', (at: string) => `'${at}/xvdc.img,raw,xvdb'`, 'FILE_EXISTS'],
    ['for a clone in the place of the memory file', (at: string) => `'${at}/s1.save,raw,xvdb'`, 'PATH_TWICE'],
  ])('%s', async (_what, entry, code) => {
    const before = filesOf(directory);
    const error = await failure(
      create(`name="s1"\nmemory_path="${directory}/s1.save"\ndisks=[${entry(directory)}]`),
    );
    expect(error).toMatchObject({ exitCode: 5, code });
    expect(filesOf(directory)).toEqual(before);
  });
});

it('an image that is two disks of the domain is refused', async () => {
  const place = host.places.get('xvdb');
  if (place !== undefined) host.places.set('xvdc', place);
  host.obstacles.set('xvdc', [{ code: 'DISK_NOT_QCOW2', message: 'not qcow2' }]);
  expect(await failure(create())).toMatchObject({ exitCode: 5 });
  const entries = `disks=[',,xvdb', '${directory}/c.raw,raw,xvdc']`;
  const error = await failure(create(`name="s1"\nmemory_path="${directory}/s1.save"\n${entries}`));
  expect(error).toMatchObject({ exitCode: 5, code: 'IMAGE_TWICE' });
});

describe('a revert is refused, even with force, and the domain keeps running,', () => {
  const find = (part: string): string => volumes().find((name) => name.includes(part)) ?? '';
  it.each<[string, () => void, string]>([
    [
      'if the snapshot volume no longer exists',
      () => rmSync(join(directory, 'vg', find('.s1-'))),
      'NO_SNAPSHOT',
    ],
    ['if the clone no longer exists', () => rmSync(`${image('xvdb')}.s1`), 'NO_SNAPSHOT'],
    [
      'if another volume has taken its name',
      () => {
        const path = join(directory, 'vg', find('.s1-'));
        const { volume: facts } = readImage(path) as unknown as { readonly volume: object };
        writeImage(path, { ...readImage(path), volume: { ...facts, uuid: 'another' } } as never);
      },
      'SNAPSHOT_REPLACED',
    ],
    ['if the manifest is missing', () => rmSync(`${directory}/s1.save.json`), 'PREFLIGHT'],
  ])('%s', async (_what, break_, code) => {
    await create();
    break_();
    host.write('now');
    const before = filesOf(directory);
    expect(await failure(revert(true))).toMatchObject({ exitCode: 5, code });
    expect(host.runs).toBe(true);
    expect(filesOf(directory)).toEqual(before);
    if (existsSync(`${directory}/s1.save.json`)) {
      const { snapshots } = await listSnapshots(host);
      expect(snapshots).toMatchObject([{ name: 's1', revert: 'impossible' }]);
    }
  });

  it('if its own volume has another name now', async () => {
    await create();
    renameSync(volume(), `${volume()}-renamed`);
    const before = filesOf(directory);
    const error = await failure(revert(true));
    expect(error).toMatchObject({ exitCode: 5, code: 'NO_IMAGE' });
    expect(error.hint).toContain('was it renamed?');
    expect(host.runs).toBe(true);
    expect(filesOf(directory)).toEqual(before);
  });

  it('if its storage is not one of this host', async () => {
    await create();
    const path = `${directory}/s1.save.json`;
    const text = readFileSync(path, 'utf8').replace('"lvm-thin"', '"zvol"');
    rmSync(path);
    writeFileSync(path, text);
    expect(await failure(revert(true))).toMatchObject({ code: 'NO_STORAGE' });
    expect(host.runs).toBe(true);
  });
});

it('a snapshot volume that has lost its tag is still known by its uuid, and reverted to and deleted', async () => {
  host.write('at the snapshot');
  await create();
  const path = join(directory, 'vg', volumes().find((name) => name.includes('.s1-')) ?? '');
  const { volume: facts } = readImage(path) as unknown as { readonly volume: object };
  writeImage(path, { ...readImage(path), volume: { ...facts, tags: [] } } as never);
  host.write('later');
  await revert();
  expect(contents()).toEqual(['at the snapshot', 'at the snapshot', 'at the snapshot']);
  await deleteSnapshots(host, { domain: 'guest1', snapshots: ['s1'] });
  expect(volumes()).toEqual(['guest1-xvda']);
});

it('a clone that was written to since is a risk', async () => {
  await create();
  const clone = `${image('xvdb')}.s1`;
  writeImage(clone, { ...readImage(clone), content: 'spoilt' });
  const error = await failure(revert());
  expect(error).toMatchObject({ code: 'RISKY', data: { risks: [{ risk: 'base-written', vdev: 'xvdb' }] } });
});

it('a volume that a program has open is not reverted, and all disks are as before', async () => {
  await create();
  host.write('now');
  const before = filesOf(directory);
  host.after = (call) => {
    // Once the domain is down, something in dom0 mounts it.
    if (call === 'destroy') host.othersUse.push(volume());
  };
  const error = await failure(revert());
  expect(error).toMatchObject({ code: 'DISKS_NOT_REVERTED', phase: 'disks', undoFailures: [] });
  expect(error.message).toContain(`domain other (domid 99) uses ${volume()}`);
  host.othersUse.length = 0;
  expect(filesOf(directory)).toEqual(before);
});

it('a file that another program has put in the place of a clone stays, when a create is recovered', async () => {
  host.fault = (call) => {
    if (call === 'clone') throw new Error('the disk is full');
  };
  await failure(create());
  expect(existsSync(`${image('xvdb')}.s1`)).toBe(false);
  expect(volumes()).toEqual(['guest1-xvda']);
  expect(await recoverSnapshot(host, { path: `${directory}/s1.save` })).toMatchObject({ outcome: 'nothing' });
});

describe('a domain with several volumes', () => {
  const isLook = (call: string): boolean => /^(?:lvs|vgs)/.test(call);
  beforeEach(() => {
    rmSync(directory, { recursive: true });
    directory = fastDirectory('xlsnap-storage-');
    const disks = (['thin', 'thin', 'linear', 'linear'] as const).map((on, at) => ({
      vdev: `xvd${'abcd'[at]}`,
      on,
    }));
    host = new FakeHost({ directory, disks });
  });

  it('is planned by one look at LVM, whatever it has', async () => {
    await planCreate(host, { domain: 'guest1', name: 's1' });
    expect(host.calls.filter(isLook)).toEqual(['lvs all']);
    host.calls.length = 0;
    await examineDomain(host, 'guest1');
    expect(host.calls.filter(isLook)).toEqual(['lvs all']);
  });

  it('is looked at once more for each disk before it is suspended, and not while it is stopped', async () => {
    await create();
    const [suspended, resumed] = [host.calls.indexOf('suspend'), host.calls.indexOf('resume')];
    expect(suspended).toBeGreaterThan(0);
    expect(host.calls.slice(0, suspended).filter(isLook)).toEqual(['lvs all', ...Array(4).fill('lvs')]);
    const stopped = host.calls.slice(suspended, resumed);
    expect(stopped.filter((call) => /^(?:lv|vg|udev|flush)/.test(call))).toEqual([
      'lvcreate',
      'lvcreate',
      'lvconvert',
      'lvconvert',
    ]);
  });
});

describe('a domain with two thick volumes in one group', () => {
  beforeEach(() => {
    rmSync(directory, { recursive: true });
    directory = fastDirectory('xlsnap-storage-');
    const disks = ['xvda', 'xvdb'].map((vdev) => ({ vdev, on: 'linear' as const }));
    host = new FakeHost({ directory, disks });
  });
  /** Of one store, in bytes. */
  const STORE = 9_445_376;

  it('is refused if one snapshot would fit, and two do not', async () => {
    host.volumes.free = 2 * STORE - 1;
    const error = await failure(create());
    expect(error).toMatchObject({ exitCode: 5, code: 'LVM_NO_ROOM' });
    expect(error.message).toBe(
      'the volume group vg has 18 MiB free, and the snapshots need 10 MiB for xvda, 10 MiB for xvdb',
    );
    expect(host.calls).not.toContain('lvcreate store');
    host.volumes.free = 2 * STORE;
    await create();
    expect(volumes()).toHaveLength(4);
  });

  it('is not reverted if there is room for one safety copy, and none for two', async () => {
    await create();
    host.volumes.free = 2 * STORE + 9 * 2 ** 20;
    const error = await failure(revert(true));
    expect(error).toMatchObject({ exitCode: 5, code: 'LVM_NO_ROOM' });
    expect(error.message).toContain('the safety copies of a revert need 9 MiB for xvda, 9 MiB for xvdb');
    expect(host.runs).toBe(true);
    expect((await listSnapshots(host)).snapshots).toMatchObject([{ revert: 'impossible' }]);
  });
});

it.each(['thin', 'linear'] as const)(
  'a create fails, and nothing is left, if a %s volume has got another name in the meantime',
  async (on) => {
    host = new FakeHost({ directory: fastDirectory('xlsnap-storage-'), disks: [{ vdev: 'xvda', on }] });
    const at = join(host.directory, 'vg', 'guest1-xvda');
    host.fault = (call) => {
      if (call !== 'suspend') return;
      renameSync(at, `${at}-renamed`);
      host.volumes.create('guest1-xvda', on);
    };
    const config = parseConfig(`name="s1"\nmemory_path="${host.directory}/s1.save"`, 'x.cfg');
    const error = await failure(createSnapshot(host, { domain: 'guest1', config, sync: false }));
    expect(error).toMatchObject({ code: 'OTHER_VOLUME', undoFailures: [] });
    expect(readdirSync(join(host.directory, 'vg')).sort()).toEqual(['guest1-xvda', 'guest1-xvda-renamed']);
    expect(host.runs).toBe(true);
    rmSync(host.directory, { recursive: true });
  },
);

it('cow= is refused for a disk whose snapshot needs no room', async () => {
  for (const vdev of ['xvda', 'xvdb', 'xvdc']) {
    const error = await failure(
      create(`name="s1"\nmemory_path="${directory}/s1.save"\ndisks=[',,${vdev},cow=1G']`),
    );
    expect(error).toMatchObject({ exitCode: 5, code: 'COW_NOT_THICK' });
  }
});

describe('a domain with a thick volume', () => {
  type WithFacts = ReturnType<typeof readImage> & { readonly volume: Readonly<Record<string, unknown>> };
  const find = (part: string): string =>
    join(directory, 'vg', volumes().find((name) => name.includes(part)) ?? '');
  const facts = (part = '.s1-') => (readImage(find(part)) as WithFacts).volume;
  const change = (part: string, some: object): void => {
    const image = readImage(find(part)) as WithFacts;
    writeImage(find(part), Object.assign({ ...image }, { volume: { ...image.volume, ...some } }));
  };
  beforeEach(() => {
    rmSync(directory, { recursive: true });
    directory = fastDirectory('xlsnap-storage-');
    host = new FakeHost({ directory, disks: [{ vdev: 'xvda', on: 'linear' }] });
  });

  it('has its store made before it is suspended, is reverted any number of times, and never merged', async () => {
    host.write('at the snapshot');
    const { plan } = await create();
    expect(plan.disks).toMatchObject([{ storage: 'lvm-thick', image: volume() }]);
    const order = ['lvcreate store', 'suspend', 'lvconvert', 'resume', 'udevadm settle'];
    expect(order.map((call) => host.calls.indexOf(call))).toEqual(
      order.map((call) => host.calls.indexOf(call)).sort((a, b) => a - b),
    );
    for (const later of ['later', 'later still']) {
      host.write(later);
      await revert();
      expect(contents()).toEqual(['at the snapshot']);
      expect(volumes()).toHaveLength(2);
    }
    expect(await listSnapshots(host)).toMatchObject({ snapshots: [{ revert: 'possible' }] });
    await deleteSnapshots(host, { domain: 'guest1', snapshots: ['s1'] });
    expect(volumes()).toEqual(['guest1-xvda']);
  });

  it('is refused if its group has no room, with what it needs', async () => {
    host.volumes.free = 2 ** 20;
    const error = await failure(create());
    expect(error).toMatchObject({ exitCode: 5, code: 'LVM_NO_ROOM' });
    expect(error.message).toBe('the volume group vg has 1 MiB free, and the snapshots need 10 MiB for xvda');
    expect(error.hint).toContain(`',,xvda,cow=SIZE'`);
    expect(volumes()).toEqual(['guest1-xvda']);
    const { possible, obstacles } = await examineDomain(host, 'guest1');
    expect(possible).toBe(false);
    expect(obstacles).toMatchObject([{ code: 'LVM_NO_ROOM' }]);
  });

  const withStore = (cow: string) =>
    create(`name="s1"\nmemory_path="${directory}/s1.save"\ndisks=[',,xvda,cow=${cow}']`);

  it.each([
    ['512K', 2 ** 19],
    ['50%', 2 ** 19],
    ['1T', 9_445_376],
  ])('has a store of the size that the cfgfile says: cow=%s', async (cow, bytes) => {
    host.volumes.free = bytes;
    const { plan, warnings } = await withStore(cow);
    expect(plan.disks).toMatchObject([{ storage: 'lvm-thick', store: bytes }]);
    expect(facts()['size']).toBe(bytes);
    // Never more than the volume can need, and then it cannot overflow.
    expect(warnings.join()).toMatch(cow === '1T' ? /^$/ : /has room for 1 MiB .* the snapshot is lost/);
    host.write('later');
    host.volumes.free = 2 ** 30;
    await revert();
    expect(contents()).toEqual(['at start']);
  });

  it('is refused if even the store of the cfgfile does not fit', async () => {
    host.volumes.free = 2 ** 18;
    expect(await failure(withStore('512K'))).toMatchObject({ code: 'LVM_NO_ROOM' });
    expect(volumes()).toEqual(['guest1-xvda']);
  });

  it('puts another snapshot at risk whose store is too small for what the revert writes back', async () => {
    await create();
    await create(`name="s2"\nmemory_path="${directory}/s2.save"\ndisks=[',,xvda,cow=64K']`);
    change('.s2-', { used: 90 });
    change('.s1-', { used: 10 });
    const error = await failure(revert());
    expect(error).toMatchObject({
      code: 'RISKY',
      data: { risks: [{ risk: 'later-snapshot', vdev: 'xvda' }] },
    });
    expect(error.message).toMatch(/vg\/guest1-xvda\.s2-[0-9a-f]{6} has 0 MiB of room left/);
    change('.s1-', { used: 0 });
    change('.s2-', { used: 0, size: 2 ** 20 });
    await revert();
  });

  it.each([
    ['is invalid', () => change('.s1-', { invalid: true }), 'SNAPSHOT_INVALID'],
    ['was merged', () => change('.s1-', { kind: 'linear' }), 'SNAPSHOT_INVALID'],
    ['has another uuid', () => change('.s1-', { uuid: 'another' }), 'SNAPSHOT_REPLACED'],
    [
      'leaves no room for the safety copy',
      () => void Object.assign(host.volumes, { free: 0 }),
      'LVM_NO_ROOM',
    ],
  ])('is not reverted to a snapshot that %s, and keeps running', async (_what, break_, code) => {
    await create();
    break_();
    const before = filesOf(directory);
    expect(await failure(revert(true))).toMatchObject({ exitCode: 5, code });
    expect(host.runs).toBe(true);
    expect(filesOf(directory)).toEqual(before);
  });

  it('is not snapshotted if its store is full at once, and nothing is left', async () => {
    const before = filesOf(directory);
    host.after = (call) => {
      if (call === 'resume') change('.s1-', { invalid: true, used: 100 });
    };
    const error = await failure(withStore('4K'));
    expect(error).toMatchObject({ code: 'NO_SNAPSHOT', undoFailures: [] });
    expect(error.hint).toContain('cow=');
    expect(host.runs).toBe(true);
    expect(filesOf(directory)).toEqual(before);
  });

  it('is as before if writing back fails, and nothing is left', async () => {
    host.write('at the snapshot');
    await create();
    host.write('now');
    const before = filesOf(directory);
    let once = true;
    host.after = (call) => {
      if (call !== 'writeBack' || !once) return;
      once = false;
      throw new Error('the disk fails');
    };
    expect(await failure(revert())).toMatchObject({ phase: 'disks', undoFailures: [] });
    expect(filesOf(directory)).toEqual(before);
  });
});
