import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import { configDisks } from '../../../../src/memfile/libxl-config.ts';
import { createSnapshot } from '../../../../src/snapshot/create/create.ts';
import { deleteSnapshots, planDelete } from '../../../../src/snapshot/delete/delete.ts';
import type { DeleteRequest } from '../../../../src/snapshot/delete/types.ts';
import { listSnapshots } from '../../../../src/snapshot/list/list.ts';
import { recoverAll, recoverSnapshot } from '../../../../src/snapshot/recover.ts';
import { revertSnapshot } from '../../../../src/snapshot/revert/revert.ts';
import { contentOf, FAKE_UUID, FakeHost, readImage, writeImage } from '../../../../src/testing/fake-host.ts';
import {
  type DiskKind,
  failure,
  fastDirectory,
  filesOf,
  killed,
  snapshotConfig,
} from '../../../support/scene.ts';

let host: FakeHost;

beforeEach(() => {
  host = new FakeHost({ directory: fastDirectory('xlsnap-delete-') });
});

afterEach(() => {
  expect(host.harm).toEqual([]);
  expect(host.locked).toBe(false);
  rmSync(host.directory, { recursive: true, force: true });
});

const image = (): string => `${host.directory}/xvda.img`;
const tags = (path = image()): string[] => Object.keys(readImage(path).tags);
const remove = (...snapshots: string[]) => deleteSnapshots(host, { domain: 'guest1', snapshots });
const refusal = (request: Partial<DeleteRequest>) =>
  failure(deleteSnapshots(host, { domain: 'guest1', ...request }));

/** A snapshot whose time of creation is later than that of those before it. */
let second = 0;
async function take(name: string, kind: DiskKind = 'internal'): Promise<string> {
  const config = kind === 'internal' ? undefined : snapshotConfig(name, host.directory, [kind]);
  const request = { domain: 'guest1', sync: false, ...(config === undefined ? { name } : { config }) };
  const { memoryPath } = (await createSnapshot(host, request)).plan;
  editManifest(memoryPath, (manifest) => {
    manifest['created'] = new Date(Date.UTC(2026, 0, 1) + 1000 * second++).toISOString();
  });
  return memoryPath;
}

function editManifest(memoryPath: string, change: (manifest: Record<string, unknown>) => void): void {
  const path = `${memoryPath}.json`;
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(manifest);
  writeFileSync(path, JSON.stringify(manifest));
}

async function names(): Promise<string[]> {
  return (await listSnapshots(host)).snapshots.map(({ name, revert }) => `${name} ${revert}`);
}

const down = (): void => host.own.end();

describe('an internal snapshot', () => {
  test.each([true, false])('goes completely (the domain runs: %s)', async (runs) => {
    host.write('at start');
    const path = await take('s1');
    const before = readImage(image()).content;
    if (!runs) down();
    host.calls.length = 0;
    const { plan, finished, warnings } = await remove('s1');
    expect(plan).toMatchObject({
      domain: 'guest1',
      domid: runs ? 7 : undefined,
      snapshots: [
        {
          name: 's1',
          memoryPath: path,
          files: [`${path}.cfg`, path, `${path}.json`],
          disks: [{ kind: 'internal', vdev: 'xvda', image: image(), tag: 's1', action: 'delete' }],
        },
      ],
      refused: [],
      unfinished: [],
    });
    expect({ finished, warnings }).toEqual({ finished: [], warnings: [] });
    expect(Object.keys(filesOf(host.directory))).toEqual([image()]);
    expect(readImage(image())).toMatchObject({ content: before, tags: {} });
    // By the domain's own QEMU, or by qemu-img, and never by the other.
    expect(host.calls.includes('undoSnapshots')).toBe(runs);
    expect(host.calls.includes('deleteTag')).toBe(!runs);
  });

  test('is named by its cfgfile too, and twice is once', async () => {
    const path = await take('s1');
    const config = parseConfig(readFileSync(`${path}.cfg`, 'utf8'), `${path}.cfg`);
    const { plan } = await deleteSnapshots(host, { domain: 'guest1', snapshots: [config, 's1', config] });
    expect(plan.snapshots).toHaveLength(1);
    expect(await names()).toEqual([]);
  });

  test('is found under the uuid that the domain had then', async () => {
    await take('s1');
    host.recreate();
    await remove('s1');
    expect(tags()).toEqual([]);
    expect(existsSync(join(host.directory, FAKE_UUID))).toBe(false);
  });

  test('goes without its image, its tag or its cfgfile', async () => {
    for (const name of ['a', 'b', 'c']) await take(name);
    down();
    rmSync(join(host.directory, FAKE_UUID, 'c.save.cfg'));
    writeImage(image(), { ...readImage(image()), tags: { a: 'x', c: 'x' } });
    const { plan } = await remove('b');
    expect(plan.snapshots[0]?.disks).toMatchObject([
      { action: 'keep', reason: `${image()} has no such tag any more` },
    ]);
    rmSync(image());
    await remove('c', 'a');
    expect(filesOf(host.directory)).toEqual({});
  });

  test('leaves a tag of its name that was taken later', async () => {
    const path = await take('s1');
    const moved = join(host.directory, 'moved.save');
    for (const end of ['', '.cfg', '.json']) renameSync(`${path}${end}`, `${moved}${end}`);
    const now = readImage(image());
    writeImage(image(), { ...now, tags: {} });
    await take('s1');
    const config = { memoryPath: moved };
    const { plan } = await deleteSnapshots(host, { domain: 'guest1', snapshots: [config] });
    expect(plan.snapshots[0]?.disks).toMatchObject([{ action: 'keep' }]);
    expect(tags()).toEqual(['s1']);
    expect(await names()).toEqual(['s1 possible']);
  });

  test('leaves the directory of the domain while there is something in it', async () => {
    const path = await take('s1');
    await take('s2');
    await remove('s1');
    expect(await names()).toEqual(['s2 possible']);
    writeFileSync(`${path}.note`, '');
    await remove('s2');
    expect(existsSync(`${path}.note`)).toBe(true);
  });
});

describe('an external snapshot', () => {
  test.each([true, false])(
    'loses its memory; base and overlay are kept (the domain runs: %s)',
    async (runs) => {
      host.write('before');
      const path = await take('e1', 'external');
      host.write('after');
      if (!runs) down();
      const overlay = `${host.directory}/e1-xvda.qcow2`;
      const before = filesOf(host.directory);
      const { plan } = await remove('e1');
      expect(plan.snapshots[0]?.disks).toEqual([
        {
          kind: 'external',
          vdev: 'xvda',
          base: image(),
          overlay,
          action: 'keep',
          reason: runs
            ? `domain guest1 (domid 7) uses ${overlay}, which depends on ${image()}`
            : `${overlay} has what was written since the snapshot, and depends on ${image()}`,
        },
      ]);
      expect(plan.snapshots[0]).toMatchObject({ files: [`${path}.cfg`, path], keptManifest: `${path}.json` });
      for (const end of ['', '.cfg']) delete before[`${path}${end}`];
      expect(filesOf(host.directory)).toEqual(before);
      expect(contentOf(overlay)).toBe('after');
    },
  );

  test.each([true, false])(
    'stays reachable until its overlay is merged (the domain runs: %s)',
    async (runs) => {
      await take('e1', 'external');
      await take('e2', 'external');
      host.write('now');
      if (!runs) down();
      await remove('e1', 'e2');
      const left = (await listSnapshots(host)).snapshots;
      expect(left).toMatchObject([
        { name: 'e1', revert: 'impossible', problems: [{ code: 'OVERLAY_LEFT' }] },
        { name: 'e2', revert: 'impossible', problems: [{ code: 'OVERLAY_LEFT' }] },
      ]);
      const overlay = `${host.directory}/e1-xvda.qcow2`;
      expect(left[0]?.problems[0]).toEqual({
        code: 'OVERLAY_LEFT',
        message: `it was deleted; what the domain has written since is in ${overlay}`,
        hint: 'xlsnap snapshot-delete guest1 e1 --merge merges that into its base',
      });
      // Without --merge nothing is left to do.
      expect(await refusal({ snapshots: ['e1'] })).toMatchObject({ code: 'OVERLAY_LEFT', exitCode: 5 });
      // It is no snapshot that could be kept in place of another.
      expect((await deleteSnapshots(host, { domain: 'guest1', keep: 1 })).plan.snapshots).toEqual([]);
      const { plan } = await deleteSnapshots(host, { domain: 'guest1', merge: true });
      expect(plan.snapshots.map(({ name }) => name)).toEqual(['e2', 'e1']);
      expect(Object.keys(filesOf(host.directory))).toEqual([image()]);
      expect(contentOf(image())).toBe('now');
      expect(await deleteSnapshots(host, { domain: 'guest1', merge: true })).toMatchObject({
        plan: { snapshots: [], refused: [] },
      });
    },
  );

  test('that a later one needs is left by a merge of the others, with the reason', async () => {
    await take('e1', 'external');
    await take('e2', 'external');
    await remove('e1');
    const merge = { merge: true };
    expect(await refusal(merge)).toMatchObject({
      code: 'NOT_ALL_DELETED',
      exitCode: 5,
      hint: 'nothing has been changed',
      data: { refused: [{ name: 'e1', problems: [{ code: 'SNAPSHOT_NEEDED' }] }] },
    });
    expect(await names()).toEqual(['e1 impossible', 'e2 possible']);
    await remove('e2');
    await deleteSnapshots(host, { domain: 'guest1', ...merge });
    expect(Object.keys(filesOf(host.directory))).toEqual([image()]);
  });

  test.each<[string, () => void]>([
    ['its overlay was removed', () => rmSync(`${host.directory}/e1-xvda.qcow2`)],
    ['its base was written to', () => writeImage(image(), { ...readImage(image()), content: 'else' })],
    [
      'its overlay is on no base',
      () => writeImage(`${host.directory}/e1-xvda.qcow2`, { format: 'qcow2', content: '', tags: {} }),
    ],
  ])('leaves no manifest if %s: there is nothing to merge', async (_what, change) => {
    await take('e1', 'external');
    down();
    change();
    expect((await remove('e1')).plan.snapshots[0]).not.toHaveProperty('keptManifest');
    expect(await names()).toEqual([]);
  });

  test('and internal ones on its overlay are independent', async () => {
    await take('e1', 'external');
    await take('i2');
    const overlay = `${host.directory}/e1-xvda.qcow2`;
    await remove('e1');
    expect(tags(overlay)).toEqual(['i2']);
    expect(await names()).toEqual(['e1 impossible', 'i2 possible']);
    await remove('i2');
    expect(tags(overlay)).toEqual([]);
  });
});

describe('an overlay that is merged', () => {
  const overlay = (name = 'e1'): string => `${host.directory}/${name}-xvda.qcow2`;
  const merge = (...snapshots: string[]) =>
    deleteSnapshots(host, { domain: 'guest1', snapshots, merge: true });
  const refused = async (name: string, code: string, words: string) => {
    const before = filesOf(host.directory);
    const error = await refusal({ snapshots: [name], merge: true });
    expect(error.code).toBe(code);
    expect(`${error.message}\n${error.hint}`).toContain(words);
    expect(filesOf(host.directory)).toEqual(before);
  };

  test.each([true, false])('goes, with its data in the base (the domain runs: %s)', async (runs) => {
    host.write('before');
    await take('e1', 'external');
    host.write('after');
    if (!runs) down();
    host.calls.length = 0;
    const seen: unknown[] = [];
    const reporter = {
      phase() {},
      log() {},
      progress: (progress: unknown) => void seen.push(progress),
    };
    const request = { domain: 'guest1', snapshots: ['e1'], merge: true };
    const { plan } = await deleteSnapshots(host, request, { reporter });
    expect(plan.snapshots[0]?.disks).toEqual([
      { kind: 'external', vdev: 'xvda', base: image(), overlay: overlay(), action: 'merge' },
    ]);
    expect(Object.keys(filesOf(host.directory))).toEqual([image()]);
    expect(contentOf(image())).toBe('after');
    // By the domain's own QEMU, or by qemu-img, and never by the other.
    expect(host.calls.includes('mergeOverlay')).toBe(runs);
    expect(host.calls.includes('commitOverlay')).toBe(!runs);
    if (!runs) return;
    expect(host.inUse.get('xvda')).toBe(image());
    expect(configDisks(host.config)).toMatchObject([{ path: image(), format: 'qcow2' }]);
    expect(seen).toContainEqual({ phase: 'merge', done: 1, total: 2, unit: 'bytes' });
  });

  test('and all those above it, newest first; then tags below can go too', async () => {
    await take('i1');
    await take('e2', 'external');
    await take('e3', 'external');
    await take('i4');
    host.write('now');
    const plan = await planDelete(host, {
      domain: 'guest1',
      snapshots: ['i1', 'e2', 'e3', 'i4'],
      merge: true,
    });
    await merge('i1', 'e2', 'e3', 'i4');
    expect(plan.snapshots.map(({ disks }) => disks[0]?.action)).toEqual([
      'delete',
      'merge',
      'merge',
      'delete',
    ]);
    expect(Object.keys(filesOf(host.directory))).toEqual([image()]);
    expect(readImage(image())).toMatchObject({ content: 'now', tags: {} });
  });

  test('leaves older snapshots as good as before', async () => {
    host.write('one');
    await take('i1');
    await take('e2', 'external');
    host.write('two');
    await merge('e2');
    expect(await names()).toEqual(['i1 possible']);
    const path = join(host.directory, FAKE_UUID, 'i1.save.cfg');
    await revertSnapshot(host, { domain: 'guest1', config: parseConfig(readFileSync(path, 'utf8'), path) });
    expect(contentOf(image())).toBe('one');
  });

  test('is refused while another snapshot needs it or its base', async () => {
    await take('e1', 'external');
    await take('e2', 'external');
    await refused(
      'e1',
      'SNAPSHOT_NEEDED',
      `snapshot "e2" (${host.directory}/e2.save) needs ${overlay()} as it is`,
    );
    await merge('e2');
    await take('i3');
    await refused('e1', 'SNAPSHOT_NEEDED', `${overlay()} has the snapshot i3, which would be lost with it`);
    await merge('i3', 'e1');
    expect(Object.keys(filesOf(host.directory))).toEqual([image()]);
  });

  test('is refused while a file beside it is on its base', async () => {
    await take('e1', 'external');
    const other = `${host.directory}/kept.qcow2`;
    const header = Buffer.alloc(200);
    header.writeUInt32BE(0x514649fb);
    header.writeBigUInt64BE(100n, 8);
    header.writeUInt32BE('xvda.img'.length, 16);
    header.write('xvda.img', 100);
    writeFileSync(other, header);
    await refused('e1', 'SNAPSHOT_NEEDED', `${other} depends on ${image()}, too, and would be spoilt`);
    rmSync(other);
    await merge('e1');
  });

  test('is refused while another domain, or its own by a later overlay, has the base', async () => {
    await take('e1', 'external');
    const above = `${host.directory}/above.qcow2`;
    writeImage(above, { format: 'qcow2', content: '', tags: {}, backing: image() });
    const other = host.addDomain({ name: 'other', images: { xvda: above } });
    await refused(
      'e1',
      'IMAGE_IN_USE',
      `domain other (domid ${other.domid}) uses ${above}, which depends on ${image()}`,
    );
    other.end();
    rmSync(above);
    host.inUse.set('xvda', image());
    await refused(
      'e1',
      'IMAGE_IN_USE',
      `domain guest1 (domid 7) uses ${image()}: ${overlay()} cannot be merged`,
    );
    host.inUse.set('xvda', overlay());
    await merge('e1');
  });

  test('is refused if the base was written to since', async () => {
    await take('e1', 'external');
    down();
    writeImage(image(), { ...readImage(image()), content: 'else' });
    await refused('e1', 'BASE_WRITTEN', 'leave out --merge');
    await remove('e1');
    expect(existsSync(overlay())).toBe(true);
  });

  test('is kept if it is on another image by now, and there is nothing to merge without it', async () => {
    await take('e1', 'external');
    down();
    writeImage(overlay(), { format: 'qcow2', content: 'all', tags: {} });
    const { plan } = await merge('e1');
    expect(plan.snapshots[0]?.disks).toMatchObject([
      { action: 'keep', reason: `${overlay()} does not depend on ${image()} any more` },
    ]);
    expect(contentOf(overlay())).toBe('all');
  });

  test('is not merged over what a domain has written to the base since, if the last step was killed', async () => {
    await take('e1', 'external');
    host.write('after');
    const bury = await killed(host, 'after', 'switchToBase', () => merge('e1'));
    // The domain continued on the base, and is started on it again.
    expect(host.inUse.get('xvda')).toBe(image());
    host.write('newer');
    host.reboot();
    host.inUse.set('xvda', image());
    const path = `${host.directory}/e1.save`;
    const error = await failure(recoverSnapshot(host, { path }));
    expect(error.undoFailures.join()).toContain('which of them has its newest data cannot be known');
    down();
    expect((await failure(merge('e1'))).undoFailures.join()).toContain(`rm ${overlay()}`);
    expect(contentOf(image())).toBe('newer');
    rmSync(overlay());
    await merge('e1');
    expect(Object.keys(filesOf(host.directory))).toEqual([image()]);
    expect(contentOf(image())).toBe('newer');
    await bury();
  });

  test('no revert of the domain begins before a merge that was killed is finished', async () => {
    await take('i1');
    await take('e2', 'external');
    const bury = await killed(host, 'before', 'switchToBase', () => merge('e2'));
    const path = join(host.directory, FAKE_UUID, 'i1.save.cfg');
    const config = parseConfig(readFileSync(path, 'utf8'), path);
    const error = await failure(revertSnapshot(host, { domain: 'guest1', config, force: true }));
    expect(error).toMatchObject({
      code: 'DELETE_UNFINISHED',
      hint: `xlsnap recover ${host.directory}/e2.save finishes it`,
    });
    await recoverAll(host);
    await revertSnapshot(host, { domain: 'guest1', config });
    await bury();
  });
});

describe('what others need is refused', () => {
  const expectRefused = async (request: Partial<DeleteRequest>, code: string, words: string) => {
    const before = filesOf(host.directory);
    const error = await refusal(request);
    expect(error).toMatchObject({ code, exitCode: 5 });
    expect(error.message).toContain(words);
    expect(filesOf(host.directory)).toEqual(before);
  };

  const overlay = (): string => `${host.directory}/e2-xvda.qcow2`;
  const expectBelow = async (): Promise<void> => {
    const words = `domain guest1 (domid 7) uses ${overlay()}, which depends on ${image()}`;
    await expectRefused({ snapshots: ['i1'] }, 'IMAGE_IN_USE', words);
    expect((await refusal({ snapshots: ['i1'] })).hint).toBe(
      'delete the external snapshots above it too, with --merge; for those deleted already, run xlsnap snapshot-delete guest1 --merge first',
    );
  };

  test.each([
    ['with', ['i1', 'e2']],
    ['after', ['i1']],
  ])(
    'a tag in an image that the domain has below its overlay, until that is merged: %s its snapshot',
    async (_, named) => {
      await take('i1');
      await take('e2', 'external');
      await expectBelow();
      if (!named.includes('e2')) {
        await remove('e2');
        await expectBelow();
        await deleteSnapshots(host, { domain: 'guest1', merge: true });
      }
      await deleteSnapshots(host, { domain: 'guest1', snapshots: named, merge: true });
      expect({ tags: tags(), names: await names(), used: host.inUse.get('xvda') }).toEqual({
        tags: [],
        names: [],
        used: image(),
      });
    },
  );

  test('a tag in an image that the domain had below its overlay', async () => {
    await take('i1');
    await take('e2', 'external');
    // With the domain down, the image is still the base of a snapshot, or of what that has left, until it is merged.
    down();
    await expectRefused({ snapshots: ['i1'] }, 'SNAPSHOT_NEEDED', 'is the base of snapshot "e2"');
    await expectRefused({ snapshots: ['i1', 'e2'] }, 'SNAPSHOT_NEEDED', 'is the base of snapshot "e2"');
    await deleteSnapshots(host, { domain: 'guest1', snapshots: ['i1', 'e2'], merge: true });
    expect(tags()).toEqual([]);
    expect(await names()).toEqual([]);
  });

  test('a base that was written to since is of no use to its snapshot', async () => {
    await take('i1');
    await take('e2', 'external');
    down();
    writeImage(image(), { ...readImage(image()), content: 'else' });
    await remove('i1');
    expect(tags()).toEqual([]);
  });

  test('a tag in an image that another domain, a loop device or an overlay of one has', async () => {
    await take('i1');
    down();
    const other = host.addDomain({ name: 'other', images: { xvda: image() } });
    await expectRefused({ snapshots: ['i1'] }, 'IMAGE_IN_USE', 'domain other');
    other.end();
    host.kernelUsers.set('/dev/loop0', image());
    await expectRefused({ snapshots: ['i1'] }, 'IMAGE_IN_USE', '/dev/loop0');
    host.kernelUsers.clear();
    const above = `${host.directory}/above.qcow2`;
    writeImage(above, { format: 'qcow2', content: '', tags: {}, backing: image() });
    host.othersUse.push(above);
    await expectRefused({ snapshots: ['i1'] }, 'IMAGE_IN_USE', 'domain other (domid 99)');
    host.othersUse.length = 0;
    rmSync(above);
    await remove('i1');
  });

  test('a tag in an image that another program has as well as its domain, which runs', async () => {
    await take('i1');
    host.kernelUsers.set('/dev/loop0', image());
    await expectRefused({ snapshots: ['i1'] }, 'IMAGE_IN_USE', '/dev/loop0');
    host.kernelUsers.clear();
    host.addDomain({ name: 'other', images: { xvda: image() } });
    await expectRefused({ snapshots: ['i1'] }, 'IMAGE_IN_USE', 'domain other');
  });

  test('a tag that a copy of the snapshot has too', async () => {
    const path = await take('i1');
    const copy = join(host.directory, 'copy.save');
    for (const end of ['', '.cfg', '.json']) writeFileSync(`${copy}${end}`, readFileSync(`${path}${end}`));
    editManifest(copy, (manifest) => {
      manifest['name'] = 'copy';
    });
    await expectRefused({ snapshots: ['i1'] }, 'SNAPSHOT_NEEDED', copy);
  });

  test('and if one of several is refused, none is touched', async () => {
    await take('i1');
    await take('e2', 'external');
    await take('i3');
    await expectRefused({ snapshots: ['i3', 'i1'] }, 'IMAGE_IN_USE', 'disk xvda');
  });

  test('a snapshot whose create or revert was killed', async () => {
    const path = await take('i1');
    writeFileSync(`${path}.journal`, 'x\n', { mode: 0o600 });
    await expectRefused({ snapshots: ['i1'] }, 'UNFINISHED', 'was killed');
    rmSync(`${path}.journal`);
    const journal = join(host.directory, `${FAKE_UUID}.revert.journal`);
    writeFileSync(journal, '', { mode: 0o600 });
    await expectRefused({ snapshots: ['i1'] }, 'REVERT_UNFINISHED', journal);
    rmSync(journal);
    await remove('i1');
  });

  test('one of another domain, dom0, and what there is not', async () => {
    const path = await take('i1');
    editManifest(path, (manifest) => {
      manifest['domain'] = 'other';
      manifest['uuid'] = '00000000-0000-4000-8000-000000000009';
    });
    const config = parseConfig(readFileSync(`${path}.cfg`, 'utf8'), 'x');
    expect(await refusal({ snapshots: [config] })).toMatchObject({ code: 'OTHER_DOMAIN', exitCode: 4 });
    expect(await refusal({ snapshots: ['i1'] })).toMatchObject({ code: 'NO_SNAPSHOT', exitCode: 2 });
    rmSync(`${path}.json`);
    expect(await refusal({ snapshots: [config] })).toMatchObject({ code: 'NO_SNAPSHOT', exitCode: 2 });
    writeFileSync(`${path}.json`, '{');
    expect(await refusal({ snapshots: [config] })).toMatchObject({ code: 'MANIFEST', exitCode: 9 });
  });

  test.each<[Partial<DeleteRequest>]>([
    [{}],
    [{ snapshots: [] }],
    [{ snapshots: ['a'], keep: 1 }],
    [{ keep: 0 }],
    [{ keep: 1.5 }],
    [{ snapshots: ['a'], prefix: 'p' }],
    [{ prefix: 'p', merge: true }],
    [{ keep: 1, merge: true }],
  ])('wrong arguments: %j', async (request) => {
    expect(await refusal(request)).toMatchObject({ code: 'KEEP', exitCode: 2 });
  });

  test('while another works on the domain', async () => {
    await take('i1');
    host.locked = true;
    expect(await refusal({ snapshots: ['i1'] })).toMatchObject({ code: 'DOMAIN_BUSY' });
    host.locked = false;
    expect(await names()).toEqual(['i1 possible']);
  });
});

describe('all but the newest', () => {
  test('are deleted, newest first, and the others can be reverted to', async () => {
    for (const name of ['a', 'b', 'c', 'd', 'e']) {
      host.write(name);
      await take(name);
    }
    const { plan } = await deleteSnapshots(host, { domain: 'guest1', keep: 2 });
    expect(plan.snapshots.map(({ name }) => name)).toEqual(['c', 'b', 'a']);
    expect(await names()).toEqual(['d possible', 'e possible']);
    expect(tags()).toEqual(['d', 'e']);
    for (const name of ['d', 'e']) {
      const path = join(host.directory, FAKE_UUID, `${name}.save.cfg`);
      await revertSnapshot(host, { domain: 'guest1', config: parseConfig(readFileSync(path, 'utf8'), path) });
      expect(contentOf(image())).toBe(name);
    }
  });

  test('of a prefix', async () => {
    for (const name of ['n-1', 'mine', 'n-2', 'n-3']) await take(name);
    await deleteSnapshots(host, { domain: 'guest1', keep: 1, prefix: 'n-' });
    expect(await names()).toEqual(['mine possible', 'n-3 possible']);
  });

  test('are none if there are no more', async () => {
    await take('a');
    host.calls.length = 0;
    const { plan } = await deleteSnapshots(host, { domain: 'guest1', keep: 1 });
    expect(plan.snapshots).toEqual([]);
    expect(await names()).toEqual(['a possible']);
  });

  test('of another domain stay', async () => {
    await take('a');
    await take('b');
    const path = await take('c');
    editManifest(path, (manifest) => {
      manifest['domain'] = 'other';
      manifest['uuid'] = '00000000-0000-4000-8000-000000000009';
    });
    await deleteSnapshots(host, { domain: 'guest1', keep: 1 });
    expect(await names()).toEqual(['b possible', 'c possible']);
  });

  test('of internal and external ones: those that can be go, and the error names the others', async () => {
    for (const [name, kind] of [
      ['i1', 'internal'],
      ['e2', 'external'],
      ['i3', 'internal'],
      ['i4', 'internal'],
    ] as const) {
      await take(name, kind);
    }
    const plan = await planDelete(host, { domain: 'guest1', keep: 1 });
    expect(plan.snapshots.map(({ name }) => name)).toEqual(['i3', 'e2']);
    expect(plan.refused).toMatchObject([{ name: 'i1', problems: [{ code: 'IMAGE_IN_USE' }] }]);
    const error = await refusal({ keep: 1 });
    expect(error).toMatchObject({
      code: 'NOT_ALL_DELETED',
      exitCode: 15,
      done: ['deleted snapshot "i3"', 'deleted snapshot "e2"'],
    });
    expect(error.data).toMatchObject({
      deleted: [{ name: 'i3' }, { name: 'e2' }],
      refused: [{ name: 'i1' }],
    });
    expect(error.undoFailures).toEqual([]);
    // What is left is as good as before; the later overlay is still on the image of the first.
    expect(await names()).toEqual(['i1 risky', 'e2 impossible', 'i4 possible']);
    down();
    await deleteSnapshots(host, { domain: 'guest1', snapshots: ['i1', 'e2', 'i4'], merge: true });
    expect(tags()).toEqual([]);
    expect(Object.keys(filesOf(host.directory))).toEqual([image()]);
  });
});

test.each(['fails', 'is interrupted'])('an error says which were deleted before one that %s', async (how) => {
  for (const name of ['a', 'b', 'c']) await take(name);
  const abort = new AbortController();
  let calls = 0;
  host.fault = (name) => {
    if (name !== 'undoSnapshots' || ++calls < 3) return;
    if (how === 'fails') throw new Error('planted');
    abort.abort();
  };
  const request = { domain: 'guest1', snapshots: ['a', 'b', 'c'] };
  const error = await failure(deleteSnapshots(host, request, { signal: abort.signal }));
  host.fault = () => {};
  expect(error.done).toEqual(['deleted snapshot "c"', 'deleted snapshot "b"']);
  expect(error.toJSON()).toMatchObject({ done: error.done });
});

test('a journal whose writer was killed at once is no obstacle', async () => {
  const path = await take('s1');
  writeFileSync(`${path}.journal`, '{"for', { mode: 0o600 });
  await remove('s1');
  expect(existsSync(`${path}.journal`)).toBe(false);
  expect(await names()).toEqual([]);
});

test('a dry run says what would go, and changes nothing', async () => {
  const path = await take('s1');
  const before = filesOf(host.directory);
  const plan = await planDelete(host, { domain: 'guest1', snapshots: ['s1'] });
  expect(plan.snapshots).toMatchObject([{ name: 's1', files: [`${path}.cfg`, path, `${path}.json`] }]);
  expect(plan.snapshots[0]?.allocatedBytes).toBeGreaterThan(0);
  expect(filesOf(host.directory)).toEqual(before);
  expect(host.locked).toBe(false);
});

test('a snapshot whose directory is a link elsewhere goes, and its killed delete is found there', async () => {
  const path = await take('s1');
  const own = join(host.directory, FAKE_UUID);
  const elsewhere = fastDirectory('xlsnap-delete-elsewhere-');
  renameSync(own, join(elsewhere, 'moved'));
  symlinkSync(join(elsewhere, 'moved'), own);
  const bury = await killed(host, 'after', 'undoSnapshots', () => remove('s1'));
  expect(await names()).toEqual(['s1 impossible']);
  expect(await recoverAll(host)).toMatchObject([{ kind: 'delete', outcome: 'deleted' }]);
  expect(filesOf(elsewhere)).toEqual({ [join(elsewhere, 'moved')]: '' });
  expect(existsSync(path)).toBe(false);
  await bury();
  rmSync(elsewhere, { recursive: true });
});

test('a manifest that another user could have written deletes nothing', async () => {
  const path = await take('s1');
  chmodSync(`${path}.json`, 0o666);
  const before = filesOf(host.directory);
  const config = { memoryPath: path };
  expect(await refusal({ snapshots: [config] })).toMatchObject({ code: 'MANIFEST_OWNER', exitCode: 9 });
  expect((await refusal({ snapshots: ['s1'] })).hint).toContain('chown root:root');
  expect((await deleteSnapshots(host, { domain: 'guest1', keep: 1 })).plan.snapshots).toEqual([]);
  expect(filesOf(host.directory)).toEqual(before);
});

test('a memory file elsewhere is found by its directory, under any name for it', async () => {
  const other = join(host.directory, 'deep', 'er');
  mkdirSync(other, { recursive: true });
  const path = await take('s1');
  for (const end of ['', '.cfg', '.json']) renameSync(`${path}${end}`, join(other, `s1.save${end}`));
  expect((await refusal({ snapshots: ['s1'] })).code).toBe('NO_SNAPSHOT');
  symlinkSync(other, join(host.directory, 'link'));
  const plan = await planDelete(host, { domain: 'guest1', snapshots: ['s1'], directories: [other] });
  expect(plan.snapshots).toHaveLength(1);
  await deleteSnapshots(host, {
    domain: 'guest1',
    snapshots: [{ memoryPath: join(host.directory, 'link', 's1.save') }],
  });
  expect(existsSync(join(other, 's1.save'))).toBe(false);
  expect(statSync(other).isDirectory()).toBe(true);
});

describe('the number to keep', () => {
  const keep = (number: number, domain = 'guest1') => deleteSnapshots(host, { domain, keep: number });
  const kept = async (): Promise<string[]> => (await listSnapshots(host)).snapshots.map(({ name }) => name);

  test('is of one domain: names are case-sensitive', async () => {
    for (const name of ['a', 'b', 'c']) await take(name);
    expect((await keep(1, 'GUEST1')).plan.snapshots).toEqual([]);
    expect(await kept()).toEqual(['a', 'b', 'c']);
  });

  test('leaves those of a domain that was renamed and runs', async () => {
    const { uuid } = host.addDomain({ name: 'former', images: {} });
    const first = await take('a');
    editManifest(first, (manifest) => {
      manifest['uuid'] = uuid;
    });
    for (const name of ['b', 'c', 'd']) await take(name);
    await keep(1);
    expect(await kept()).toEqual(['a', 'd']);
    expect(tags()).toEqual(['a', 'd']);
    expect(await refusal({ snapshots: ['a'] })).toMatchObject({ exitCode: 2 });
  });

  test('counts no snapshot that is not whole', async () => {
    await take('a');
    const path = await take('b');
    renameSync(path, `${path}.partial`);
    expect((await keep(1)).plan.snapshots).toEqual([]);
    expect(await kept()).toEqual(['a', 'b']);
  });
});
