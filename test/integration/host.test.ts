import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { toDomid } from '../../src/core/brand.ts';
import { encodeXlHeader, makeXlHeader } from '../../src/savefmt/index.ts';
import { FAKE_UUID, FakeHost } from '../../src/testing/fake-host.ts';
import { XlToolstack } from '../../src/toolstack/xl/toolstack.ts';
import { XenstoreClient } from '../../src/xenstore/client.ts';
import { FakeXenstored } from '../../src/xenstore/testing.ts';
import { fakeProgram } from '../support/fake-program.ts';
import { tempDir } from '../support/temp.ts';

// A real xenstore protocol and real processes, with shell scripts called xl.

let directory: Awaited<ReturnType<typeof tempDir>>;
let xenstored: FakeXenstored;
let xenstore: XenstoreClient;
let host: FakeHost;
let toolstack: XlToolstack;
let takeAway = (): void => {};
const at = (name: string): string => join(directory.path, name);

beforeEach(async () => {
  directory = await tempDir();
  xenstored = await FakeXenstored.listen(at('xenstored'), { '/local/domain/0/name': 'Domain-0' });
  xenstore = await XenstoreClient.connect({ path: xenstored.path });
  host = new FakeHost({ directory: directory.path });
  toolstack = new XlToolstack(host.hypervisor, xenstore, directory.path, at('run'));
});
afterEach(async () => {
  takeAway();
  takeAway = () => {};
  await xenstore.close();
  await xenstored[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

describe('lock', () => {
  const what = { what: 'snapshot-create' };
  const mine = `a ${process.pid}/../%`;

  it('keeps others away from a domain by each of its names and uuids, and takes all keys or none', async () => {
    const held = await toolstack.lock(['uuid-1', mine], what);
    expect(statSync(at('run')).mode & 0o777).toBe(0o700);
    await expect(toolstack.lock(['uuid-2', mine], what)).rejects.toMatchObject({
      code: 'DOMAIN_BUSY',
      data: { pid: process.pid, what: 'snapshot-create' },
    });
    // The key that it could have had is free.
    await using _other = await toolstack.lock(['uuid-2', 'uuid-2'], what);
    await held[Symbol.asyncDispose]();
    await using _again = await toolstack.lock([mine], what);
  });
});

describe('repointDisks', () => {
  const stored = (): string => at(`userdata-d.7.${FAKE_UUID}.libxl-json`);
  const own = (devid: number): string => `/libxl/7/device/vbd/${devid}`;
  const backend = (devid: number): string => `/local/domain/0/backend/qdisk/7/${devid}`;
  const disk = (vdev: string, format: string): Record<string, unknown> => ({
    vdev,
    pdev_path: `/g/${vdev}`,
    format,
    readwrite: 1,
    discard_enable: 'True',
  });
  const params = (devid: number): (string | undefined)[] => [
    xenstored.get(`${own(devid)}/params`),
    xenstored.get(`${backend(devid)}/params`),
  ];
  const storedDisks = (): unknown => JSON.parse(readFileSync(stored(), 'utf8').replace('\0', '')).disks;

  beforeEach(() => {
    for (const [vdev, devid] of [
      ['xvda', 51712],
      ['xvdb', 51728],
    ] as const) {
      xenstored.set(`${own(devid)}/backend`, backend(devid));
      for (const node of [own(devid), backend(devid)]) xenstored.set(`${node}/params`, `qcow2:/g/${vdev}`);
      xenstored.set(`${backend(devid)}/dev`, vdev);
    }
    const config = { c_info: { name: 'guest1' }, disks: [disk('xvda', 'qcow2'), disk('xvdb', 'qcow2')] };
    writeFileSync(stored(), `${JSON.stringify(config)}\0`);
  });

  it.each([
    ['qcow2', 'qcow2', 'qcow2'],
    ['raw', 'aio', 'raw'],
    ['vpc', 'vhd', 'vhd'],
  ])(
    'names an image of format %s as libxl does, and does not change the other disk',
    async (format, word, inConfig) => {
      await toolstack.repointDisks(toDomid(7), [{ vdev: 'xvdb', path: '/o:1, 2', format }]);
      expect(params(51728)).toEqual([`${word}:/o:1, 2`, `${word}:/o:1, 2`]);
      expect(params(51712)).toEqual(['qcow2:/g/xvda', 'qcow2:/g/xvda']);
      expect(storedDisks()).toEqual([
        disk('xvda', 'qcow2'),
        { ...disk('xvdb', inConfig), pdev_path: '/o:1, 2' },
      ]);
    },
  );

  it('starts over when another program has written to xenstore', async () => {
    let once = true;
    xenstored.intercept = ({ type, transactionId }) => {
      // WRITE in the transaction.
      if (type === 11 && transactionId !== 0 && once) {
        once = false;
        xenstored.set('/local/domain/9/name', 'other');
      }
      return false;
    };
    await toolstack.repointDisks(toDomid(7), [{ vdev: 'xvda', path: '/o', format: 'qcow2' }]);
    expect(once).toBe(false);
    expect(params(51712)).toEqual(['qcow2:/o', 'qcow2:/o']);
  });

  it('reports that the domain no longer exists', async () => {
    host.domid = undefined;
    await expect(toolstack.repointDisks(toDomid(7), [])).rejects.toMatchObject({ code: 'DOMAIN_GONE' });
  });
});

describe('emulatorXenstoreData', () => {
  const root = '/local/domain/0/device-model/7';

  it('is empty if QEMU stores nothing in xenstore', async () => {
    expect(await toolstack.emulatorXenstoreData(toDomid(7))).toHaveLength(0);
  });

  it('has the pairs that libxl saves, each with its NUL', async () => {
    for (const [key, value] of [
      ['start_addr', 'f0000000'],
      ['size', '800000'],
      ['name', 'vga.vram'],
      ['other', 'x'],
    ]) {
      xenstored.set(`${root}/physmap/f1/${key}`, value ?? '');
    }
    expect(new TextDecoder().decode(await toolstack.emulatorXenstoreData(toDomid(7)))).toBe(
      'physmap/f1/start_addr\0f0000000\0physmap/f1/size\x00800000\0physmap/f1/name\0vga.vram\0',
    );
  });

  it('ignores half an entry', async () => {
    xenstored.set(`${root}/physmap/f1/size`, '800000');
    await expect(toolstack.emulatorXenstoreData(toDomid(7))).rejects.toMatchObject({
      message: expect.stringContaining('start_addr'),
    });
  });
});

describe('a restore that fails', () => {
  const memory = (): string => at('memory');
  const script = (): string => readFileSync(at('calls'), 'utf8');

  beforeEach(() => {
    host.pauses = 1;
    writeFileSync(
      memory(),
      encodeXlHeader(makeXlHeader(JSON.stringify({ c_info: { name: 'guest1', uuid: FAKE_UUID } }))),
    );
    // The restore fails once the domain exists, while xl is working.
    takeAway = fakeProgram(
      directory.path,
      'xl',
      `cd ${directory.path}; echo "$*" >> calls
       case $1 in destroy) exit 0;; esac
       while [ ! -e come ]; do sleep 0.02; done; echo "error: no" >&2; exit 1`,
    );
  });

  const called = async (command: string): Promise<void> => {
    while (!existsSync(at('calls')) || !script().includes(command)) await sleep(10);
  };

  /** @param left puts into xenstore what is there when xl has failed */
  const restore = async (left: () => void): Promise<unknown> => {
    const work = toolstack.restore(memory(), undefined, {}).catch((error: unknown) => error);
    await called('restore');
    left();
    writeFileSync(at('come'), '');
    return await work;
  };

  it('removes the partly built domain, and says why the restore failed', async () => {
    const destroyed = called('destroy 7').then(() => {
      host.domid = undefined;
    });
    const error = await restore(() => xenstored.set('/local/domain/7/name', 'guest1'));
    await destroyed;
    expect(error).toMatchObject({ code: 'XL_RESTORE', message: expect.stringContaining('error: no') });
  });

  it.each([
    ['runs', () => (host.pauses = 0)],
    [
      'has another uuid',
      () =>
        (host.config = { ...host.config, c_info: { name: 'guest1', uuid: FAKE_UUID.replaceAll('4', '5') } }),
    ],
  ])('leaves a domain of that name that %s: it belongs to another program', async (_, change) => {
    change();
    const error = await restore(() => xenstored.set('/local/domain/7/name', 'guest1'));
    expect(error).toMatchObject({ code: 'XL_RESTORE' });
    expect(script()).not.toContain('destroy');
  });

  it('is not tried if there is such a domain', async () => {
    xenstored.set('/local/domain/7/name', 'guest1');
    await expect(toolstack.restore(memory(), undefined, {})).rejects.toMatchObject({ code: 'DOMAIN_EXISTS' });
  });
});
