import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import { toDomid } from '../../../../src/core/brand.ts';
import { createSnapshot } from '../../../../src/snapshot/create/create.ts';
import { type ListRequest, listSnapshots, type SnapshotList } from '../../../../src/snapshot/list/list.ts';
import type { ImageHost, ImageUse } from '../../../../src/snapshot/ports.ts';
import { planRevert } from '../../../../src/snapshot/revert/revert.ts';
import { FAKE_UUID, FakeHost, readImage, writeImage } from '../../../../src/testing/fake-host.ts';
import { failure, fastDirectory, snapshotConfig } from '../../../support/scene.ts';

let host: FakeHost;

beforeEach(() => {
  host = new FakeHost({ directory: fastDirectory('xlsnap-list-'), disks: [{ vdev: 'xvda' }] });
});

afterEach(() => {
  expect(host.harm).toEqual([]);
  rmSync(host.directory, { recursive: true, force: true });
});

/** A snapshot in the host's own directory, or as a cfgfile says. */
async function take(name: string, config?: ReturnType<typeof snapshotConfig>): Promise<string> {
  const request = { domain: 'guest1', sync: false, ...(config === undefined ? { name } : { config }) };
  return (await createSnapshot(host, request)).plan.memoryPath;
}

/** Only image files are asked for, and nothing of Xen. */
async function list(request: ListRequest = {}, more: Partial<ImageHost> = {}): Promise<SnapshotList> {
  host.calls.length = 0;
  const { images, snapshotDir } = host;
  const found = await listSnapshots({ images, snapshotDir, ...more }, request);
  expect(host.calls.filter((call) => call !== 'info')).toEqual([]);
  return found;
}

const names = ({ snapshots }: SnapshotList): string[] => snapshots.map(({ name }) => name);

function editManifest(memoryPath: string, change: (manifest: Record<string, unknown>) => void): void {
  const path = `${memoryPath}.json`;
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(manifest);
  writeFileSync(path, JSON.stringify(manifest));
}

describe('snapshots are listed', () => {
  test('newest last, with what is known of each', async () => {
    for (const name of ['b', 'c', 'a']) {
      const path = await take(name);
      editManifest(path, (manifest) => {
        manifest['created'] = `2026-11-0${'bca'.indexOf(name) + 1}T00:00:00.000Z`;
      });
    }
    const found = await list();
    expect(names(found)).toEqual(['b', 'c', 'a']);
    expect(found.snapshots[0]).toMatchObject({
      domain: 'guest1',
      uuid: FAKE_UUID,
      state: 'running',
      type: 'pvh',
      memoryPath: join(host.directory, FAKE_UUID, 'b.save'),
      configPath: join(host.directory, FAKE_UUID, 'b.save.cfg'),
      disks: [{ kind: 'internal', vdev: 'xvda', tag: 'b' }],
      revert: 'possible',
      problems: [],
      risks: [],
    });
    expect(found.snapshots[0]?.allocatedBytes).toBeGreaterThan(0);
  });

  test('with what each shares with other files, where the file system says so', async () => {
    const path = await take('s1');
    expect((await list()).snapshots[0]).not.toHaveProperty('sharedBytes');
    const allocatedBytes = statSync(path).blocks * 512;
    for (const [answer, sharedBytes] of [
      [undefined, undefined],
      [0, 0],
      [4096, 4096],
      [2 ** 40, allocatedBytes],
    ] as const) {
      const port = { sharedBytes: (asked: string) => Promise.resolve(asked === path ? answer : Number.NaN) };
      const ownBytes = sharedBytes === undefined ? undefined : allocatedBytes - sharedBytes;
      const [found] = (await list({}, port)).snapshots;
      expect(found).toMatchObject({ allocatedBytes });
      expect([found?.sharedBytes, found?.ownBytes]).toEqual([sharedBytes, ownBytes]);
    }
    rmSync(path);
    expect((await list()).snapshots[0]).not.toHaveProperty('ownBytes');
  });

  test('where there is no directory, there are none', async () => {
    rmSync(host.directory, { recursive: true });
    expect(await list()).toEqual({ directories: [host.directory], snapshots: [], damaged: [] });
  });

  test('in other directories too, and right below them, each once', async () => {
    const other = fastDirectory('xlsnap-list-other-');
    mkdirSync(join(other, 'deep'));
    const path = await take('s1');
    for (const end of ['', '.cfg', '.json'])
      renameSync(`${path}${end}`, join(other, 'deep', `s1.save${end}`));
    expect(names(await list())).toEqual([]);
    symlinkSync(other, join(other, 'link'));
    const directories = [other, join(other, 'deep'), `${other}/`, join(other, 'link')];
    const found = await list({ directories });
    expect(names(found)).toEqual(['s1']);
    expect(found.snapshots[0]).toMatchObject({
      memoryPath: join(other, 'deep', 's1.save'),
      revert: 'possible',
    });
    rmSync(other, { recursive: true });
  });

  test('and a directory that does not exist is refused', async () => {
    const error = await failure(list({ directories: ['/nonexistent'] }));
    expect(error).toMatchObject({ code: 'NO_DIRECTORY', exitCode: 2 });
  });

  test('where a directory of the host or of the caller is a link to one elsewhere', async () => {
    const elsewhere = fastDirectory('xlsnap-list-elsewhere-');
    const path = await take('s1');
    const own = join(host.directory, FAKE_UUID);
    renameSync(own, join(elsewhere, 'moved'));
    symlinkSync(join(elsewhere, 'moved'), own);
    symlinkSync('/nonexistent', join(host.directory, 'dangling'));
    symlinkSync(host.directory, join(host.directory, 'loop'));
    expect((await list()).snapshots).toMatchObject([{ memoryPath: path, revert: 'possible' }]);
    // Each once, however many names lead there.
    const found = await list({ directories: [elsewhere, join(elsewhere, 'moved')] });
    expect(names(found)).toEqual(['s1']);
    rmSync(elsewhere, { recursive: true });
  });

  test('while no domain runs', async () => {
    await take('s1');
    await host.toolstack.destroy(toDomid(7), { timeoutMs: 1 });
    expect((await list()).snapshots).toMatchObject([{ name: 's1', revert: 'possible' }]);
  });
});

describe('the snapshots of one domain', () => {
  test('are those of its name, under any uuid, and those of a uuid that it had', async () => {
    await take('first');
    host.recreate();
    const second = await take('second');
    const renamed = await take('renamed');
    editManifest(renamed, (manifest) => {
      manifest['domain'] = 'former-name';
    });
    const other = await take('other');
    editManifest(other, (manifest) => {
      manifest['domain'] = 'other';
      manifest['uuid'] = '00000000-0000-4000-8000-000000000009';
    });
    const { uuid } = JSON.parse(readFileSync(`${second}.json`, 'utf8')) as { uuid: string };
    expect(names(await list({ domain: 'guest1' }))).toEqual(['first', 'second', 'renamed']);
    expect(names(await list({ domain: uuid.toUpperCase() }))).toEqual(['second', 'renamed']);
    expect(names(await list({ domain: '7', keys: ['guest1'] }))).toHaveLength(3);
    expect(names(await list({ domain: 'nobody' }))).toEqual([]);
    expect(names(await list())).toHaveLength(4);
  });
});

describe('a manifest that cannot be read', () => {
  test('is in the list with its reason, and with its domain, by the memory file', async () => {
    await take('good');
    const path = await take('torn');
    writeFileSync(`${path}.json`, '{"format"');
    for (const domain of ['guest1', FAKE_UUID]) {
      const found = await list({ domain });
      expect(names(found)).toEqual(['good']);
      expect(found.damaged).toEqual([
        {
          name: 'torn',
          domain: 'guest1',
          memoryPath: path,
          manifestPath: `${path}.json`,
          message: `the manifest ${path}.json is not JSON`,
        },
      ]);
    }
    expect((await list({ domain: 'other' })).damaged).toEqual([]);
  });

  test('is in every list if nothing says whose it is', async () => {
    writeFileSync(join(host.directory, 'x.save.json'), '[]');
    for (const request of [{}, { domain: 'guest1' }]) {
      expect((await list(request)).damaged).toMatchObject([{ name: 'x' }]);
    }
  });

  test('is not trusted if another user could have written it', async () => {
    const path = await take('s1');
    const { name } = (await list()).snapshots[0] ?? {};
    expect(name).toBe('s1');
    for (const mode of [0o620, 0o602, 0o666]) {
      chmodSync(`${path}.json`, mode);
      const found = await list();
      expect(names(found)).toEqual([]);
      expect(found.damaged).toMatchObject([{ name: 's1', message: expect.stringContaining('another user') }]);
    }
    chmodSync(`${path}.json`, 0o600);
    expect(names(await list())).toEqual(['s1']);
    // Only root can give files away.
    if (process.geteuid?.() !== 0) return;
    chownSync(`${path}.json`, 65_534, 65_534);
    expect((await list()).damaged).toMatchObject([{ message: expect.stringContaining('uid 65534') }]);
  });

  test('is passed over if it is a FIFO, which nobody may ever write to', async () => {
    await take('s1');
    execFileSync('mkfifo', [join(host.directory, 'pipe.save.json')]);
    expect(names(await list())).toEqual(['s1']);
  });

  test('is not taken for one if it is JSON of something else', async () => {
    writeFileSync(join(host.directory, 'package.json'), '{"name":"x"}');
    expect(await list()).toMatchObject({ snapshots: [], damaged: [] });
    writeFileSync(join(host.directory, 'package'), '');
    expect((await list()).damaged).toMatchObject([{ name: 'package' }]);
  });
});

/** What makes a revert impossible or risky, and what the list and the revert say of it. */
const CHANGES: readonly (readonly [
  what: string,
  kind: 'internal' | 'external',
  change: (path: string) => unknown,
  revert: 'possible' | 'risky' | 'impossible',
  codes: readonly string[],
])[] = [
  ['nothing', 'internal', () => {}, 'possible', []],
  ['nothing', 'external', () => {}, 'possible', []],
  ['the memory file is missing', 'internal', (path) => rmSync(path), 'impossible', ['NO_MEMORY_FILE']],
  [
    'the memory file is cut',
    'internal',
    (path) => truncateSync(path, 9000),
    'impossible',
    ['MEMORY_CHANGED'],
  ],
  [
    'the tag is missing',
    'internal',
    () => writeImage(image(), { ...readImage(image()), tags: {} }),
    'impossible',
    ['NO_TAG'],
  ],
  [
    'the tag was taken again',
    'internal',
    async () => {
      const before = readImage(image());
      writeImage(image(), { ...before, tagNumbers: { s1: 99_999 } });
    },
    'risky',
    ['tag-replaced'],
  ],
  ['the image is missing', 'internal', () => rmSync(image()), 'impossible', ['NO_IMAGE']],
  [
    'the base was written to',
    'external',
    () => writeImage(image(), { ...readImage(image()), content: 'since' }),
    'risky',
    ['base-written'],
  ],
  ['the base is missing', 'external', () => rmSync(image()), 'impossible', ['NO_IMAGE']],
  ['the overlay is missing', 'external', () => rmSync(`${host.directory}/s1-xvda.qcow2`), 'possible', []],
  [
    'the image has another format',
    'external',
    () => writeImage(image(), { format: 'raw', content: '', tags: {} }),
    'impossible',
    ['IMAGE_FORMAT'],
  ],
  ['a later snapshot is on its overlay', 'external', () => takeLater(), 'risky', ['later-snapshot']],
  ['a later snapshot is on its image', 'internal', () => takeLater(), 'risky', ['later-snapshot']],
  [
    'a journal is left',
    'internal',
    (path) => writeFileSync(`${path}.journal`, ''),
    'impossible',
    ['UNFINISHED'],
  ],
];

const image = (): string => `${host.directory}/xvda.img`;
const takeLater = (): Promise<string> => take('s2', snapshotConfig('s2', host.directory, ['external']));

describe('whether a snapshot can be reverted to now', () => {
  test.each(CHANGES)('%s (%s)', async (_what, kind, change, revert, codes) => {
    host.write('before');
    const config = snapshotConfig('s1', host.directory, [kind]);
    const path = await take('s1', config);
    runOn(kind);
    await change(path);
    if (host.domid !== undefined) await host.toolstack.destroy(host.domid, { timeoutMs: 1 });
    const { snapshots } = await list();
    const [found] = snapshots;
    expect(found).toMatchObject({ name: 's1', revert });
    expect([
      ...(found?.problems ?? []).map(({ code }) => code),
      ...(found?.risks ?? []).map(({ risk }) => risk),
    ]).toEqual(codes);
    // The revert itself says the same; it does not look at journals of creates.
    const text = readFileSync(`${path}.cfg`, 'utf8');
    const request = { domain: 'guest1', config: parseConfig(text, `${path}.cfg`) };
    const verdict = await planRevert(host, request).then(
      () => 'possible',
      ({ code }: { code: string }) => (code === 'RISKY' ? 'risky' : 'impossible'),
    );
    if (!codes.includes('UNFINISHED')) expect(verdict).toBe(revert);
  });

  test('an overlay beside the image is a risk, unless the image was written to since', async () => {
    await take('s1');
    const overlay = join(host.directory, 'other.qcow2');
    const header = Buffer.alloc(200);
    header.writeUInt32BE(0x514649fb);
    header.writeBigUInt64BE(100n, 8);
    header.writeUInt32BE('xvda.img'.length, 16);
    header.write('xvda.img', 100);
    writeFileSync(overlay, header);
    expect((await list()).snapshots).toMatchObject([
      { revert: 'risky', risks: [{ risk: 'later-snapshot', message: expect.stringContaining(overlay) }] },
    ]);
    const path = join(host.directory, FAKE_UUID, 's1.save.cfg');
    const request = { domain: 'guest1', config: parseConfig(readFileSync(path, 'utf8'), path) };
    expect((await failure(planRevert(host, request))).code).toBe('RISKY');
    const hours = Date.now() / 1000 - 7200;
    utimesSync(overlay, hours, hours);
    expect((await list()).snapshots).toMatchObject([{ revert: 'possible', risks: [] }]);
  });

  test('an overlay that a domain uses is a risk, wherever it is', async () => {
    await take('s1');
    const elsewhere = fastDirectory('xlsnap-list-overlay-');
    const above = join(elsewhere, 'above.qcow2');
    writeImage(above, { format: 'qcow2', content: '', tags: {}, backing: image() });
    const { images, snapshotDir } = host;
    const uses: ImageUse[] = [
      { path: above, format: 'qcow2', domid: 7, holder: 'domain guest1 (domid 7)', writable: true },
    ];
    const of = async (): Promise<unknown> =>
      (await listSnapshots({ images, snapshotDir, imagesInUse: () => Promise.resolve(uses) })).snapshots;
    expect(await of()).toMatchObject([
      {
        revert: 'risky',
        risks: [
          {
            risk: 'later-snapshot',
            message: `disk xvda: ${above}, which domain guest1 (domid 7) uses now, depends on ${image()} and would be broken`,
          },
        ],
      },
    ]);
    uses[0] = { path: image(), format: 'qcow2', domid: 7, holder: 'domain guest1 (domid 7)', writable: true };
    expect(await of()).toMatchObject([{ revert: 'possible' }]);
    rmSync(elsewhere, { recursive: true });
  });

  test('a disk that is not part of it is a risk', async () => {
    const path = await take('s1', parseConfig(`name="s1"\ndisks=[]`, 'x'));
    expect((await list()).snapshots[0]?.risks).toMatchObject([{ risk: 'disk-uncovered', vdev: 'xvda' }]);
    expect(path).toContain('s1.save');
  });

  test('what cannot be found out is a problem of that one, and the list goes on', async () => {
    await take('s1');
    await take('s2', snapshotConfig('s2', host.directory, ['external']));
    host.fault = (call) => {
      if (call === 'info') throw new Error('no qemu-img');
    };
    const { snapshots } = await list();
    expect(snapshots).toMatchObject([
      { name: 's1', revert: 'impossible', problems: [{ code: 'UNREADABLE' }] },
      { name: 's2', revert: 'impossible', problems: [{ code: 'UNREADABLE' }] },
    ]);
  });

  test('an image is asked for once, however many snapshots it has', async () => {
    for (const name of ['a', 'b', 'c']) await take(name);
    await list();
    expect(host.calls).toEqual(['info']);
  });

  test('an interruption ends it', async () => {
    await take('s1');
    const { images, snapshotDir } = host;
    const signal = AbortSignal.abort(new Error('stop'));
    const error = await failure(listSnapshots({ images, snapshotDir }, {}, { signal }));
    expect(error.code).toBe('INTERRUPTED');
  });
});

/** The domain reboots, with the overlay in its configuration, if there is one. */
function runOn(kind: 'internal' | 'external'): void {
  host.reboot();
  if (kind === 'external') host.inUse.set('xvda', `${host.directory}/s1-xvda.qcow2`);
}
