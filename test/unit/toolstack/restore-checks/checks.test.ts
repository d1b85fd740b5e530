import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { toDomid } from '../../../../src/core/brand.ts';
import type { LibxlConfig } from '../../../../src/memfile/libxl-config.ts';
import type { DomainState, RestoreFacts } from '../../../../src/snapshot/ports.ts';
import {
  availableHere,
  checkRestore,
  poolObstacles,
} from '../../../../src/toolstack/restore-checks/checks.ts';
import { displayObstacles, listening } from '../../../../src/toolstack/restore-checks/displays.ts';
import { imageObstacles } from '../../../../src/toolstack/restore-checks/images.ts';
import {
  judgeMemory,
  type MemoryOfHost,
  pagingBytes,
} from '../../../../src/toolstack/restore-checks/memory.ts';
import { networkObstacles } from '../../../../src/toolstack/restore-checks/network.ts';
import { programFindings } from '../../../../src/toolstack/restore-checks/programs.ts';
import { takesFromDom0 } from '../../../../src/toolstack/xl/conf.ts';
import { tempDir } from '../../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  directory = await tempDir();
});
afterEach(() => directory[Symbol.asyncDispose]());

const at = (...names: string[]): string => join(directory.path, ...names);
const none = new Set<string>();
const codes = (found: readonly { code: string }[]): string[] => found.map(({ code }) => code);

/** Makes an empty file, with the directories above it. */
function touch(path: string, mode = 0o644): string {
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, '');
  chmodSync(path, mode);
  return path;
}

describe('images', () => {
  const disk = (fields: object) => ({ disks: [{ vdev: 'xvdc', ...fields }] });

  test('an ISO image that no longer exists is named with its drive', async () => {
    const iso = at('x.iso');
    const config = disk({ pdev_path: iso, is_cdrom: 1, backend: 'qdisk', format: 'raw' });
    expect(await imageObstacles(config, none)).toEqual([
      expect.objectContaining({
        code: 'IMAGE_GONE',
        message: `disk xvdc: its image ${iso} no longer exists`,
        hint: expect.any(String),
      }),
    ]);
    touch(iso);
    expect(await imageObstacles(config, none)).toEqual([]);
  });

  test('a directory in the place of an image is not an image', async () => {
    const [found] = await imageObstacles(disk({ pdev_path: directory.path }), none);
    expect(found?.message).toContain('neither a file nor a block device');
  });

  test('an image below something that is not a directory cannot be reached', async () => {
    const [found] = await imageObstacles(disk({ pdev_path: join(touch(at('file')), 'x') }), none);
    expect(found?.message).toContain('cannot be reached: ENOTDIR');
  });

  test.each([
    ['an empty drive', { is_cdrom: 1 }],
    ['a name of the block layer of QEMU', { pdev_path: 'rbd:pool/image' }],
    ['what a script makes sense of', { pdev_path: '/gone', script: 'block-iscsi' }],
    ['an image of another domain, by number', { pdev_path: '/gone', backend_domid: 3 }],
    ['an image of another domain, by name', { pdev_path: '/gone', backend_domname: 'storage' }],
  ])('%s is not checked', async (_, fields) => {
    expect(await imageObstacles(disk(fields), none)).toEqual([]);
  });

  test('a disk that the revert itself checks is left to it', async () => {
    expect(await imageObstacles(disk({ pdev_path: '/gone' }), new Set(['xvdc']))).toEqual([]);
  });
});

describe('network interfaces', () => {
  const places = () => ({ interfaces: at('net'), scripts: at('scripts') });
  const nic = (fields: object, info: object = {}): LibxlConfig => ({ c_info: info, nics: [fields] });
  const bridged = { bridge: 'xenbr0', script: 'vif-bridge' };

  test('a missing bridge is named, and an existing one is not', async () => {
    touch(at('scripts', 'vif-bridge'), 0o755);
    mkdirSync(at('net'));
    const [found, ...others] = await networkObstacles(nic(bridged), places());
    expect(found).toMatchObject({
      code: 'BRIDGE_GONE',
      message: expect.stringContaining('no bridge xenbr0'),
    });
    expect(others).toEqual([]);
    mkdirSync(at('net', 'xenbr0'));
    expect(await networkObstacles(nic(bridged), places())).toEqual([]);
  });

  test('xenbr0 may be eth0, as for the script, if that is a bridge', async () => {
    touch(at('scripts', 'vif-bridge'), 0o755);
    mkdirSync(at('net', 'eth0'), { recursive: true });
    expect(codes(await networkObstacles(nic(bridged), places()))).toEqual(['BRIDGE_GONE']);
    mkdirSync(at('net', 'eth0', 'bridge'));
    expect(await networkObstacles(nic(bridged), places())).toEqual([]);
  });

  test('a script that is missing or not executable is named', async () => {
    const script = at('vif-own');
    const config = nic({ bridge: 'ovs0.5:7', script });
    expect(await networkObstacles(config, places())).toMatchObject([
      { code: 'SCRIPT_GONE', message: expect.stringContaining('no longer exists') },
    ]);
    touch(script, 0o644);
    expect(await networkObstacles(config, places())).toMatchObject([
      {
        code: 'SCRIPT_GONE',
        message: expect.stringContaining('is not executable'),
        hint: `chmod +x ${script}`,
      },
    ]);
    chmodSync(script, 0o755);
    expect(await networkObstacles(config, places())).toEqual([]);
  });

  test.each([
    ['one that another domain connects', nic({ ...bridged, backend_domid: 2 })],
    ['one whose script udev calls', nic(bridged, { run_hotplug_scripts: 'False' })],
  ])('%s is not checked', async (_, config) => {
    expect(await networkObstacles(config, places())).toEqual([]);
  });
});

describe('programs', () => {
  const guest = (type: string, build: object): LibxlConfig => ({ c_info: { type }, b_info: build });

  test('a missing kernel stops the QEMU of an HVM guest, but only the next reboot of others', async () => {
    const kernel = at('vmlinuz');
    const hvm = await programFindings(guest('hvm', { kernel }));
    expect(codes(hvm.obstacles)).toEqual(['KERNEL_GONE']);
    for (const type of ['pvh', 'pv']) {
      const { obstacles, warnings } = await programFindings(guest(type, { kernel, ramdisk: kernel }));
      expect(obstacles).toEqual([]);
      expect(warnings).toEqual([
        `the guest's kernel ${kernel} no longer exists: the guest cannot reboot`,
        `the guest's ramdisk ${kernel} no longer exists: the guest cannot reboot`,
      ]);
    }
    touch(kernel);
    expect((await programFindings(guest('hvm', { kernel }))).obstacles).toEqual([]);
  });

  test('missing firmware matters to the next reboot', async () => {
    const path = at('ovmf.bin');
    const config = guest('hvm', { 'type.hvm': { system_firmware: path } });
    expect((await programFindings(config)).warnings).toEqual([
      `the guest's firmware ${path} no longer exists: the guest cannot reboot`,
    ]);
  });

  test('a device model that is missing or not executable stops the restore', async () => {
    const model = at('qemu');
    const config = guest('hvm', { device_model: model });
    expect(codes((await programFindings(config)).obstacles)).toEqual(['DEVICE_MODEL_GONE']);
    const disks = (backend: string) => ({ ...guest('pvh', { device_model: model }), disks: [{ backend }] });
    expect(codes((await programFindings(disks('qdisk'))).obstacles)).toEqual(['DEVICE_MODEL_GONE']);
    expect((await programFindings(disks('phy'))).obstacles).toEqual([]);
    touch(model);
    expect(codes((await programFindings(config)).obstacles)).toEqual(['DEVICE_MODEL_GONE']);
    chmodSync(model, 0o755);
    expect((await programFindings(config)).obstacles).toEqual([]);
  });

  test('the missing script of a disk stops the restore', async () => {
    const config = { c_info: { type: 'pvh' }, disks: [{ vdev: 'xvda', script: at('block-own') }] };
    expect((await programFindings(config)).obstacles).toMatchObject([
      { code: 'SCRIPT_GONE', message: expect.stringContaining('disk xvda') },
    ]);
    const byUdev = { ...config, c_info: { type: 'pvh', run_hotplug_scripts: 'False' } };
    expect((await programFindings(byUdev)).obstacles).toEqual([]);
  });
});

describe('displays', () => {
  const table = (port: number, state = '0A', address = '0100007F'): string =>
    `  sl  local_address rem_address   st\n   0: ${address}:${port.toString(16).toUpperCase()} 00000000:0000 ${state} 00000000\n`;
  const tables = (port: number, state?: string, address?: string): string[] => {
    writeFileSync(at('tcp'), table(port, state, address));
    return [at('tcp'), at('no-tcp6')];
  };
  const vnc = (fields: object): LibxlConfig => ({
    c_info: { type: 'hvm' },
    b_info: { 'type.hvm': { vnc: fields } },
  });
  const fixed = { enable: 'True', findunused: 'False', display: 3 };

  test('a fixed port that another program listens on is named', async () => {
    expect(await displayObstacles(vnc(fixed), undefined, tables(5903))).toMatchObject([
      { code: 'DISPLAY_BUSY', message: expect.stringContaining('port 5903') },
    ]);
    expect(
      await displayObstacles(vnc({ ...fixed, display: 0, listen: '0.0.0.0:4' }), undefined, tables(5904)),
    ).toHaveLength(1);
  });

  test('SPICE and the screens of PV guests count too', async () => {
    const spice = {
      c_info: { type: 'hvm' },
      b_info: { 'type.hvm': { spice: { enable: 'True', port: 6000, tls_port: 0 } } },
    };
    expect(await displayObstacles(spice, undefined, tables(6000))).toHaveLength(1);
    expect(
      await displayObstacles({ c_info: { type: 'pv' }, vfbs: [{ vnc: fixed }] }, undefined, tables(5903)),
    ).toHaveLength(1);
  });

  test.each([
    ['a connection on that port', vnc(fixed), undefined, '01'],
    ['a port that QEMU may choose', vnc({ ...fixed, findunused: 'True' }), undefined, '0A'],
    ['a screen that is off', vnc({ ...fixed, enable: 'False' }), undefined, '0A'],
    ['the port of the domain that goes', vnc(fixed), vnc(fixed), '0A'],
  ])('%s does not count', async (_, config, current, state) => {
    expect(await displayObstacles(config, current, tables(5903, state))).toEqual([]);
  });

  test.each([
    ['0100007F', '127.0.0.1', 1],
    ['0100007F', '192.168.1.5', 0],
    ['0100007F', '0.0.0.0', 1],
    ['00000000', '192.168.1.5', 1],
    ['00000000000000000000000000000000', '192.168.1.5', 1],
    ['0501A8C0', '192.168.1.5:3', 1],
    ['0501A8C0', '127.0.0.1', 0],
    ['B80D0120000067452301EFCDAB890000', '127.0.0.1', 0],
  ])(
    'a program that listens on %s and a screen on %s conflict %i times',
    async (address, listen, expected) => {
      const config = vnc({ ...fixed, listen });
      expect(await displayObstacles(config, undefined, tables(5903, '0A', address))).toHaveLength(expected);
    },
  );

  test('a malformed table has no ports', () => {
    expect(listening('')).toEqual([]);
    expect(listening('x\n\n 0: 1 2')).toEqual([]);
  });
});

describe('memory', () => {
  const MIB = 2 ** 20;
  const config = (fields: object = {}, type = 'pvh'): LibxlConfig => ({
    c_info: { type },
    b_info: { target_memkb: 200 * 1024, max_memkb: 200 * 1024, max_vcpus: 1, ...fields },
  });
  const pages = (200 * MIB) / 4096;
  const dom0 = (total: number, available: number) => ({
    dom0: { total: total * MIB, available: available * MIB },
  });
  const host = (free: number, freed = 0): MemoryOfHost => ({ free: free * MIB, freed: freed * MIB });

  test('a restore that does not fit is refused without help from dom0', () => {
    const { obstacle, risk } = judgeMemory(config(), pages, host(108));
    expect(risk).toBeUndefined();
    expect(obstacle).toMatchObject({
      code: 'NO_MEMORY',
      message: 'the restore needs 202 MiB of memory, but 108 MiB is free',
    });
    expect(judgeMemory(config(), pages, host(202)).obstacle).toBeUndefined();
  });

  test('the memory of the domain to be destroyed counts', () => {
    expect(judgeMemory(config(), pages, host(0, 202))).toEqual({});
    expect(judgeMemory(config(), pages, host(10, 64)).obstacle?.message).toContain(
      "64 MiB is the domain's own",
    );
  });

  test('xl takes from dom0 what its programs do not need; the rest is a risk, and its last 128 MiB are out of reach', () => {
    expect(judgeMemory(config(), pages, { ...host(4), ...dom0(1024, 600) })).toEqual({});
    const { risk, obstacle } = judgeMemory(config(), pages, { ...host(4), ...dom0(1024, 150) });
    expect(obstacle).toBeUndefined();
    expect(risk).toContain('only 150 MiB is unused');
    expect(judgeMemory(config(), pages, { ...host(4), ...dom0(300, 300) }).obstacle).toMatchObject({
      code: 'NO_MEMORY',
      message: expect.stringContaining('dom0 has 300 MiB'),
    });
  });

  test('page tables are counted as libxl does, or as the configuration says', () => {
    expect(pagingBytes(config())).toBe(MIB + 200 * 4096);
    expect(pagingBytes(config({ shadow_memkb: 4096, iommu_memkb: 1024 }))).toBe(5 * MIB);
    expect(pagingBytes({ ...config(), c_info: { type: 'hvm', hap: 'False' } })).toBe(MIB + 400 * 4096);
    expect(pagingBytes(config({}, 'pv'))).toBe(0);
  });

  test.each([
    ['autoballoon="on"', 'dom0_mem=512M', true],
    ["autoballoon = 'off'", '', false],
    ['autoballoon=1', '', true],
    ['autoballoon="off"\nautoballoon="on"', '', true],
    ['#autoballoon="off"', '', true],
    ['', 'placeholder dom0_mem=1024M,max:1024M loglvl=all', false],
    ['autoballoon="auto"', 'dom0_mem=min:512M,50%', false],
    ['', 'xdom0_mem=512M', true],
  ])('xl.conf %j with Xen started by %j', async (conf, commandLine, expected) => {
    expect(await takesFromDom0(conf, () => Promise.resolve(commandLine))).toBe(expected);
  });

  test('what dom0 can spare is what its kernel says', async () => {
    writeFileSync(at('meminfo'), 'MemTotal: 1 kB\nMemAvailable:     2048 kB\n');
    expect(await availableHere(7, at('meminfo'))).toBe(2 * MIB);
    expect(await availableHere(7, at('none'))).toBe(7);
  });
});

describe('CPU pools', () => {
  const xenstore = (pools: Record<string, string>) => ({
    listMaybe: () => Promise.resolve(Object.keys(pools)),
    readMaybe: (path: string) => Promise.resolve(pools[path.split('/')[3] ?? '']),
  });

  test.each([
    ['fast', { 0: 'Pool-0', 1: 'fast' }, []],
    ['1', { 0: 'Pool-0', 1: 'fast' }, []],
    ['slow', { 0: 'Pool-0' }, ['CPU_POOL_GONE']],
    ['7', { 0: 'Pool-0' }, ['CPU_POOL_GONE']],
    ['Pool-0', {}, []],
    ['0', { 1: 'fast' }, []],
  ])('pool %s among %j', async (pool, pools, expected) => {
    const config = { c_info: { pool_name: pool } };
    expect(codes(await poolObstacles(config, xenstore(pools)))).toEqual(expected);
  });

  test('a domain without a pool of its own needs none', async () => {
    expect(await poolObstacles({ c_info: {} }, xenstore({}))).toEqual([]);
  });
});

test('all of them together report everything that prevents a restore', async () => {
  const config: LibxlConfig = {
    c_info: { type: 'pvh', pool_name: 'gone' },
    b_info: { kernel: at('vmlinux'), target_memkb: 8192, max_memkb: 8192, max_vcpus: 1 },
    disks: [{ vdev: 'xvdb', pdev_path: at('b.img') }],
    nics: [{ bridge: 'nobr0', script: at('vif-bridge') }],
  };
  const facts: RestoreFacts = { config, replacesConfig: false, pages: 2048, disks: [], replaced: undefined };
  const world = {
    hypervisor: {
      freeMemory: () => Promise.resolve(0),
      domainState: () => Promise.resolve({ memoryBytes: 2 ** 30 } as DomainState),
    },
    xenstore: { listMaybe: () => Promise.resolve([]), readMaybe: () => Promise.resolve(undefined) },
    takesFromDom0: false,
  };
  const found = await checkRestore(world, facts);
  expect(codes(found.obstacles)).toEqual([
    'IMAGE_GONE',
    'SCRIPT_GONE',
    'BRIDGE_GONE',
    'CPU_POOL_GONE',
    'NO_MEMORY',
  ]);
  expect(found.warnings).toHaveLength(1);
  const domain = { domid: toDomid(7), memoryBytes: 16 * 2 ** 20 } as DomainState;
  const again = await checkRestore(world, { ...facts, replaced: { domain, config } });
  expect(codes(again.obstacles)).not.toContain('NO_MEMORY');
});
