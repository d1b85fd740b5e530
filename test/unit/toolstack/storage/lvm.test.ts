import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Lvm } from '../../../../src/toolstack/storage/lvm.ts';
import { fakeProgram } from '../../../support/fake-program.ts';
import { failure } from '../../../support/scene.ts';

let scratch: string;
const undo: (() => void)[] = [];
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'xlsnap-lvm-'));
  mkdirSync(join(scratch, 'proc'));
  mkdirSync(join(scratch, 'dev'));
});
afterEach(() => {
  for (const one of undo.splice(0).reverse()) one();
  rmSync(scratch, { recursive: true });
});

const lvm = (): Lvm => new Lvm({ devices: join(scratch, 'dev'), proc: join(scratch, 'proc') });

/** Stands in for a command of LVM, and notes how it was called. */
function command(name: string, script: string): void {
  const note = `echo "${name} $*" >>${scratch}/calls; env >${scratch}/env`;
  undo.push(fakeProgram(scratch, name, `${note}\n${script}`));
}

const calls = (): string[] => readFileSync(join(scratch, 'calls'), 'utf8').trim().split('\n');

/** A row of lvs as LVM 2.03.31 prints it. */
const row = {
  vg_name: 'vg',
  lv_name: 'ta-s1',
  lv_uuid: 't4XAMh-obep-aaaa-bbbb-cccc-dddd-eeeeee',
  lv_size: '67108864',
  lv_layout: 'thin,sparse',
  lv_role: 'public,snapshot,thinsnapshot',
  lv_active: '',
  lv_device_open: 'unknown',
  lv_merging: '',
  lv_tags: 'a,xlsnap',
  pool_lv: 'tp',
  // What LVM prints for all but thick snapshots.
  snap_percent: '',
  lv_snapshot_invalid: 'unknown',
};

function lvs(...rows: readonly Readonly<Record<string, string>>[]): void {
  const file = join(scratch, 'lvs.json');
  writeFileSync(file, JSON.stringify({ report: [{ lv: rows }], log: [] }));
  command('lvs', `echo 'WARNING: something' >&2; cat ${file}`);
}

describe('a volume', () => {
  it('is found by its name, with what lvs says of it', async () => {
    lvs(row);
    expect(await lvm().byName('vg', 'ta-s1')).toEqual({
      group: 'vg',
      name: 'ta-s1',
      uuid: row.lv_uuid,
      size: 67108864,
      kind: 'thin',
      layout: 'thin,sparse',
      active: false,
      open: false,
      merging: false,
      tags: ['a', 'xlsnap'],
      pool: 'tp',
      usedPercent: 0,
      invalid: false,
    });
    expect(calls()[0]).toContain('-S vg_name="vg" && lv_name="ta-s1"');
  });

  it('is known by its device, through the uuid of the device mapper, without a command', async () => {
    const directory = join(scratch, 'dev', '253:2', 'dm');
    mkdirSync(directory, { recursive: true });
    const uuid = row.lv_uuid.replaceAll('-', '');
    writeFileSync(join(directory, 'uuid'), `LVM-${'g'.repeat(32)}${uuid}\n`);
    expect(await lvm().uuidAt({ major: 253, minor: 2 })).toBe(row.lv_uuid);
    expect(existsSync(join(scratch, 'calls'))).toBe(false);
  });

  it.each([
    ['encrypted', `CRYPT-LUKS2-${'a'.repeat(32)}-disk`],
    ['a path to storage', 'mpath-3600508b400105e210000900000490000'],
    ['a hidden part of a volume', `LVM-${'g'.repeat(64)}-tpool`],
  ])('is none if the device is %s', async (_what, uuid) => {
    const directory = join(scratch, 'dev', '253:2', 'dm');
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'uuid'), `${uuid}\n`);
    expect(await lvm().uuidAt({ major: 253, minor: 2 })).toBeUndefined();
    expect(await lvm().uuidAt({ major: 8, minor: 0 })).toBeUndefined();
  });

  it.each([
    ['linear', 'public', 'linear'],
    ['striped', 'public,origin,thickorigin', 'linear'],
    ['linear', 'public,snapshot,thicksnapshot', 'snapshot'],
    ['thin,pool', 'private', 'other'],
    ['thin,sparse', 'public,origin,thickorigin', 'other'],
    ['raid,raid1', 'public', 'other'],
    ['cache', 'public', 'other'],
  ])('of layout %s and role %s is of kind %s', async (layout, role, kind) => {
    lvs({ ...row, lv_layout: layout, lv_role: role, lv_active: 'active', lv_device_open: 'open' });
    expect(await lvm().byName('vg', 'x')).toMatchObject({ kind, active: true, open: true });
  });

  it('is undefined if lvs has no row for it, and an error if lvs fails', async () => {
    lvs();
    expect(await lvm().byName('vg', 'gone')).toBeUndefined();
    command('lvs', 'echo "no lock" >&2; exit 5');
    const error = await failure(lvm().byName('vg', 'ta'));
    expect(error).toMatchObject({ code: 'LVM', message: 'lvs failed with exit status 5: no lock' });
    command('lvs', 'echo nonsense');
    await expect(lvm().byName('vg', 'ta')).rejects.toThrow('lvs failed');
  });

  it('that has no name of LVM reaches no command', async () => {
    command('lvs', 'exit 0');
    for (const name of ['-f', 'a"b', 'a b', '']) {
      expect((await failure(lvm().byName('vg', name))).code).toBe('LVM_NAME');
    }
    await expect(async () => calls()).rejects.toThrow('ENOENT');
  });
});

describe('a change', () => {
  it('is one command, in a clean environment', async () => {
    const before = process.env['DM_DISABLE_UDEV'];
    process.env['DM_DISABLE_UDEV'] = '1';
    undo.push(() => {
      if (before === undefined) delete process.env['DM_DISABLE_UDEV'];
      else process.env['DM_DISABLE_UDEV'] = before;
    });
    for (const name of ['lvcreate', 'lvrename', 'lvchange', 'lvremove']) command(name, 'exit 0');
    const volumes = lvm();
    await volumes.snapshotThin('vg', 'ta', 'ta.s1', { keep: true });
    await volumes.snapshotThin('vg', 'ta.s1', 'ta.fresh', { keep: false });
    await volumes.deactivate('vg', 'ta');
    await volumes.rename('vg', 'ta', 'ta.before');
    await volumes.activate('vg', 'ta');
    await volumes.remove({ group: 'vg', name: 'ta.before', uuid: 'abc-DEF' });
    expect(calls()).toEqual([
      'lvcreate -qq -y --noudevsync --addtag xlsnap -s -n ta.s1 vg/ta',
      // Without -kn the guest's disk would stay inactive after the next boot; a tag would be on it.
      'lvcreate -qq -y --noudevsync -an -kn -s -n ta.fresh vg/ta.s1',
      'lvchange -qq -an vg/ta',
      'lvrename -qq vg ta ta.before',
      'lvchange -qq -ay -K vg/ta',
      // Another volume that has the name by then stays.
      'lvremove -qq -f -y -S lv_uuid="abc-DEF" vg/ta.before',
    ]);
    const env = readFileSync(join(scratch, 'env'), 'utf8');
    expect(env).toContain('LVM_SUPPRESS_FD_WARNINGS=1');
    expect(env).toContain('LC_ALL=C');
    expect(env).not.toContain('DM_DISABLE_UDEV');
  });

  it('for a thick snapshot is a store before, and one quick command while the guest is stopped', async () => {
    for (const name of ['lvcreate', 'lvconvert', 'lvchange']) command(name, 'exit 0');
    await lvm().createStore('vg', 'd.s1', 2 ** 20 + 1);
    await lvm().snapshotThick('vg', 'd', 'd.s1', { keep: true });
    expect(calls()).toEqual([
      'lvcreate -qq -y --addtag xlsnap -L 1025k -n d.s1 vg',
      'lvchange -qq -an vg/d.s1',
      'lvconvert -qq -y --noudevsync --type snapshot -Zn vg/d vg/d.s1',
    ]);
  });

  it('that hangs is waited for no longer after a while, and never killed', async () => {
    command('lvcreate', `sleep 1; echo ended >${scratch}/ended`);
    const volumes = new Lvm({ proc: join(scratch, 'proc'), writeMs: 100 });
    const error = await failure(volumes.snapshotThin('vg', 'ta', 'ta.s1', { keep: true }));
    expect(error.code).toBe('LVM_HANGS');
    expect(error.message).toMatch(/^lvcreate .* \(pid \d+\) has not ended within 0.1 s$/);
    await expect.poll(() => existsSync(join(scratch, 'ended')), { timeout: 20_000 }).toBe(true);
  });

  it('that does nothing while the guest is stopped is waited for even shorter, and never killed', async () => {
    command('lvconvert', `sleep 3; echo ended >${scratch}/ended`);
    const volumes = new Lvm({ proc: join(scratch, 'proc'), idleMs: 600 });
    const error = await failure(volumes.snapshotThick('vg', 'd', 'd.s1', { keep: true }));
    expect(error.code).toBe('LVM_HANGS');
    expect(error.message).toMatch(
      /^lvconvert .* has done nothing for 0.6 s, and the guest is stopped for it$/,
    );
    expect(existsSync(join(scratch, 'ended'))).toBe(false);
    await expect.poll(() => existsSync(join(scratch, 'ended')), { timeout: 20_000 }).toBe(true);
    // Nobody is stopped during a revert.
    await volumes.snapshotThick('vg', 'd', 'd.safety', { keep: false });
  });

  it('that works is waited for, however long it takes', async () => {
    // Reads from and writes to pipes all the time.
    command('lvcreate', 'for n in $(seq 30); do echo $n; sleep 0.1; done >/dev/null');
    const volumes = new Lvm({ proc: join(scratch, 'proc'), idleMs: 1500 });
    await volumes.snapshotThin('vg', 'ta', 'ta.s1', { keep: true });
    expect(calls()).toHaveLength(1);
  });

  it("that fails is reported with LVM's own words", async () => {
    command('lvcreate', 'echo "Thin pool vg/tp is out of data space." >&2; exit 5');
    const error = await failure(lvm().snapshotThin('vg', 'ta', 'ta.s1', { keep: true }));
    expect(error.code).toBe('LVM');
    expect(error.message).toContain('exit status 5: Thin pool vg/tp is out of data space.');
  });
});

it('a thick snapshot says how full its store is, and whether it is lost', async () => {
  const thick = { ...row, lv_layout: 'linear', lv_role: 'public,snapshot,thicksnapshot', pool_lv: '' };
  lvs({ ...thick, snap_percent: '0.13', lv_snapshot_invalid: '' });
  expect(await lvm().byName('vg', 'x')).toMatchObject({
    kind: 'snapshot',
    usedPercent: 0.13,
    invalid: false,
  });
  lvs({ ...thick, snap_percent: '100.00', lv_snapshot_invalid: 'snapshot invalid' });
  expect(await lvm().byName('vg', 'x')).toMatchObject({ usedPercent: 100, invalid: true });
});

describe('a list', () => {
  it('has all volumes, pools and free space, by one command', async () => {
    const pool = {
      ...row,
      lv_name: 'tp',
      lv_layout: 'thin,pool',
      lv_role: 'private',
      data_percent: '3.12',
      metadata_percent: '10.55',
      lv_health_status: '',
    };
    const plain = { ...row, vg_name: 'wg', lv_name: 'root', lv_layout: 'linear', lv_role: 'public' };
    lvs({ ...row, vg_free: '21168652288' }, { ...pool, vg_free: '21168652288' }, { ...plain, vg_free: '0' });
    const { volumes, pools, free } = await lvm().list();
    expect(volumes.map(({ group, name, kind }) => `${group}/${name} ${kind}`)).toEqual([
      'vg/ta-s1 thin',
      'vg/tp other',
      'wg/root linear',
    ]);
    expect([...pools]).toEqual([['vg/tp', { dataPercent: 3.12, metadataPercent: 10.55, health: '' }]]);
    expect([...free]).toEqual([
      ['vg', 21168652288],
      ['wg', 0],
    ]);
    expect(calls()).toHaveLength(1);
    expect(calls()[0]).not.toContain('-S');
  });

  it('counts a pool whose figures are missing as full', async () => {
    const pool = { ...row, lv_name: 'tp', lv_layout: 'thin,pool', lv_health_status: 'failed' };
    lvs({ ...pool, data_percent: '', metadata_percent: '' });
    const { pools } = await lvm().list();
    expect(pools.get('vg/tp')).toEqual({ dataPercent: 100, metadataPercent: 100, health: 'failed' });
  });
});

it('volumes cannot be made without udevd', async () => {
  expect(await lvm().obstacle()).toContain('udevd does not run');
  mkdirSync(join(scratch, 'proc', '42'));
  writeFileSync(join(scratch, 'proc', '42', 'comm'), 'systemd-udevd\n');
  expect(await lvm().obstacle()).toBeUndefined();
});

it('a command that a killed xlsnap has started on the group is waited for', async () => {
  lvs(row);
  const worker = join(scratch, 'proc', '43');
  mkdirSync(worker);
  writeFileSync(join(worker, 'cmdline'), ['/sbin/lvrename', '-qq', 'vg', 'ta', 'ta.before', ''].join('\0'));
  let found = false;
  const finding = lvm()
    .byName('vg', 'ta-s1')
    .then(() => (found = true));
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(found).toBe(false);
  rmSync(worker, { recursive: true });
  await finding;
  expect(found).toBe(true);
});
