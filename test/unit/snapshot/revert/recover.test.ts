/** Tests unusual cases of a killed revert. test/unit/faults/revert.test.ts tests every port call. */
import {
  appendFileSync,
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import { toDomid } from '../../../../src/core/brand.ts';
import type { XlsnapError } from '../../../../src/core/errors.ts';
import { silentReporter } from '../../../../src/core/reporter.ts';
import type { RevertRequest } from '../../../../src/snapshot/api.ts';
import { createSnapshot, planCreate } from '../../../../src/snapshot/create/create.ts';
import { recoverAll, recoverSnapshot } from '../../../../src/snapshot/recover.ts';
import { planRevert, revertSnapshot } from '../../../../src/snapshot/revert/revert.ts';
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
let request: RevertRequest;
/** All files before the revert. */
let files: Record<string, string>;
let bury: () => Promise<void> = () => Promise.resolve();

const at = (name: string): string => join(host.directory, name);
const journal = (): string => at(`${FAKE_UUID}.revert.journal`);
const overlay = (): string => at('s1-xvdb.qcow2');
const aside = (): string | undefined => readdirSync(host.directory).find((name) => name.includes('.before-'));
const safetyTags = (): string[] =>
  Object.keys(readImage(at('xvda.img')).tags).filter((tag) => tag.startsWith('xlsnap-before-'));
const recover = () => recoverSnapshot(host, { path: journal() });
const diskContents = (): string[] => [contentOf(at('xvda.img')), contentOf(overlay())];

/** A domain with an internal and an external disk that has moved on since its snapshot. */
async function scene(options: { paused?: boolean; kinds?: readonly DiskKind[] } = {}): Promise<void> {
  const { paused = false, kinds = ['internal', 'external'] } = options;
  host = new FakeHost({
    directory: fastDirectory('xlsnap-recover-'),
    paused,
    disks: kinds.map((_, i) => ({ vdev: `xvd${'ab'[i]}` })),
  });
  host.write('at the snapshot');
  const config = snapshotConfig('s1', host.directory, kinds);
  const { plan } = await createSnapshot(host, { domain: 'guest1', config, sync: false });
  host.write('later');
  const path = plan.configPath ?? '';
  request = { domain: 'guest1', config: parseConfig(readFileSync(path, 'utf8'), path) };
  files = filesOf(host.directory);
}

async function kill(
  when: 'before' | 'after',
  call: string,
  more: Partial<RevertRequest> = {},
): Promise<void> {
  bury = await killed(host, when, call, () => revertSnapshot(host, { ...request, ...more }));
}

function externalFirst(): void {
  const disks = [...(request.config.disks ?? [])].reverse();
  request = { ...request, config: { ...request.config, disks } };
}

/** What else the dead process had done. */
function note(step: Record<string, unknown>): void {
  appendFileSync(journal(), `${JSON.stringify({ at: Date.now(), ...step })}\n`);
}

function edit(change: (text: string) => string): void {
  writeFileSync(journal(), change(readFileSync(journal(), 'utf8')));
}

beforeEach(() => scene());
afterEach(async () => {
  await bury();
  bury = () => Promise.resolve();
  rmSync(host.directory, { recursive: true });
});

describe('disks that are half reverted', () => {
  it('are as before, whichever of the two renames was the last', async () => {
    await kill('after', 'createOverlay');
    const fresh = readdirSync(host.directory).find((name) => name.includes('.fresh-')) ?? '';
    note({ step: 'fresh', vdev: 'xvdb', inode: statSync(at(fresh)).ino });
    renameSync(overlay(), at(fresh.replace('.fresh-', '.before-')));
    const between = filesOf(host.directory);
    expect(await recover()).toMatchObject({ outcome: 'undone', guest: 'gone' });
    expect(filesOf(host.directory)).toEqual(files);
    // Again, and one step further.
    rmSync(overlay());
    for (const [path, text] of Object.entries(between)) {
      writeFileSync(path, text, { encoding: 'latin1', mode: 0o600 });
    }
    edit((text) => text.replace(/"inode":\d+/, `"inode":${statSync(at(fresh)).ino}`));
    edit((text) => text.replaceAll(/"step":"undoing".*\n/g, '"step":"x"}\n'));
    renameSync(at(fresh), overlay());
    expect(diskContents()).toEqual(['at the snapshot', 'at the snapshot']);
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('leave no overlay where there was none', async () => {
    await host.toolstack.destroy(toDomid(7), { timeoutMs: 1 });
    rmSync(overlay());
    files = filesOf(host.directory);
    externalFirst();
    await kill('before', 'createTag');
    expect(existsSync(overlay())).toBe(true);
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it("disks stay as they are if another file has taken an overlay's place; the others are as before", async () => {
    await kill('after', 'createOverlay');
    const fresh = readdirSync(host.directory).find((name) => name.includes('.fresh-')) ?? '';
    renameSync(overlay(), at(fresh.replace('.fresh-', '.before-')));
    writeImage(overlay(), { format: 'qcow2', content: 'precious', tags: {} });
    const error = await failure(recover());
    expect(error).toMatchObject({ code: 'NOT_RECOVERED', exitCode: 14 });
    expect(error.message).toContain('do not start it');
    expect(error.undoFailures[0]).toMatch(/not the file that.*by hand: .*mv .*before-/);
    expect(error.hint).toContain(journal());
    expect(diskContents()).toEqual(['later', 'precious']);
    rmSync(overlay());
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('disks are not written to while a domain uses one', async () => {
    await kill('after', 'createOverlay');
    host.othersUse.push(at('xvda.img'));
    const error = await failure(recover());
    expect(error.undoFailures[0]).toMatch(/uses .*xvda\.img/);
    expect(diskContents()[0]).toBe('at the snapshot');
    host.othersUse.length = 0;
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('stay in the place of the former ones while a domain uses them', async () => {
    externalFirst();
    await kill('before', 'createTag');
    host.othersUse.push(overlay());
    const half = filesOf(host.directory);
    const error = await failure(recover());
    expect(error.undoFailures[0]).toMatch(/uses .*s1-xvdb\.qcow2/);
    expect(filesOf(host.directory)).toEqual(half);
    host.othersUse.length = 0;
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('disks are left as they are if a domain has written to them since, unless that is to be discarded', async () => {
    await kill('after', 'applyTag');
    const later = Date.now() / 1000 + 3600;
    utimesSync(at('xvda.img'), later, later);
    const error = await failure(recover());
    expect(error.undoFailures[0]).toMatch(
      /was written to at .* To keep what it holds now: qemu-img snapshot -d/,
    );
    expect(safetyTags()).toHaveLength(1);
    expect(diskContents()[0]).toBe('at the snapshot');
    // As it says.
    await host.images.deleteTag(at('xvda.img'), safetyTags()[0] ?? '');
    expect(await recover()).toMatchObject({ outcome: 'undone', undone: [] });
    expect(diskContents()[0]).toBe('at the snapshot');
  });

  it('are left as they are if a fresh overlay was written to', async () => {
    externalFirst();
    await kill('before', 'createTag');
    const later = Date.now() / 1000 + 3600;
    utimesSync(overlay(), later, later);
    const error = await failure(recover());
    expect(error.undoFailures[0]).toMatch(/was written to at .* To keep what it holds now: rm .*before-/);
    rmSync(at(aside() ?? ''));
    expect(await recover()).toMatchObject({ outcome: 'undone', undone: [] });
    expect(diskContents()).toEqual(['later', 'at the snapshot']);
  });

  it('are left so although another disk was put back since', async () => {
    await kill('after', 'applyTag');
    const later = Date.now() / 1000 + 3600;
    utimesSync(at('xvda.img'), later, later);
    note({ step: 'undoing', vdev: 'xvdb', at: (later + 3600) * 1000 });
    expect((await failure(recover())).undoFailures[0]).toContain('was written to at');
  });

  it('are as before if only the note failed that all are reverted', async () => {
    await kill('before', 'createOverlay');
    note({ step: 'reverted' });
    note({ step: 'undoing', vdev: 'xvda' });
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('are tried again if the revert itself could not put them back', async () => {
    host.fault = (call) => {
      if (/createOverlay|deleteTag/.test(call)) throw new Error(`no ${call}`);
    };
    await failure(revertSnapshot(host, request));
    host.fault = () => {};
    const [, ...steps] = readFileSync(journal(), 'utf8').trim().split('\n');
    expect(steps.map((line) => JSON.parse(line))).toMatchObject([
      { step: 'tagged', vdev: 'xvda' },
      { step: 'undoing', vdev: 'xvda' },
    ]);
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('are tried again if an undo failed, though that has written to them', async () => {
    await kill('before', 'createOverlay');
    edit((text) =>
      text.replaceAll(/"at":\d+/g, '"at":1').replace(/"created":"[^"]*"/, '"created":"1970-01-01"'),
    );
    const old = 100;
    utimesSync(at('xvda.img'), old, old);
    host.fault = (call) => {
      if (call === 'deleteTag') throw new Error('no deleteTag');
    };
    await failure(recover());
    host.fault = () => {};
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('lose a tag of which only its existence is known, without its being applied', async () => {
    await kill('after', 'createTag');
    writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), content: 'written since' });
    await recover();
    expect(diskContents()[0]).toBe('written since');
    expect(safetyTags()).toEqual([]);
  });

  it.each([
    ['the last line was cut off', '{"step":"ta'],
    ['a line is unreadable', 'x\n'],
  ])('are as before if %s', async (_what, tail) => {
    await kill('after', 'applyTag');
    edit((text) => text.replace(/.*tagged.*\n/, '') + tail);
    host.fault = (call) => {
      if (call === 'deleteTag') throw new Error('no deleteTag');
    };
    await failure(recover());
    // What was noted now can be read.
    expect(readFileSync(journal(), 'utf8')).toMatch(/^\{"step":"undoing","vdev":"xvda","at":\d+\}$/m);
    host.fault = () => {};
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('disks are as before after a crash of the host', async () => {
    await kill('before', 'createOverlay');
    edit((text) => text.replace(/"boot":"[^"]*"/, '"boot":"another"'));
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('disks are as before although recover was killed too, in any port call', async () => {
    await kill('after', 'createOverlay');
    const half = filesOf(host.directory);
    host.calls.length = 0;
    await recover();
    const calls = [...host.calls];
    expect(calls).toContain('applyTag');
    for (const [i, call] of calls.entries()) {
      for (const when of ['before', 'after'] as const) {
        for (const path of Object.keys(filesOf(host.directory))) rmSync(path);
        for (const [path, text] of Object.entries(half)) {
          writeFileSync(path, text, { encoding: 'latin1', mode: 0o600 });
        }
        host.dead = false;
        const end = await killed(host, when, i, recover);
        await recover();
        expect(filesOf(host.directory), `${when} ${call}`).toEqual(files);
        await end();
      }
    }
  });
});

describe('a domain of a killed revert', () => {
  it('is reported if it was being restored, and the journal stays until it no longer exists or runs', async () => {
    await kill('after', 'restore');
    const found = await recover();
    expect(found).toMatchObject({ outcome: 'reverted', guest: 'paused', halfBuilt: 8 });
    expect(found.next).toContain('snapshot-revert guest1');
    expect(host.pauses).toBe(1);
    // It is unknown whether it is complete, so nothing of the former disks is removed.
    expect(safetyTags()).toHaveLength(1);
    expect(found.kept).toEqual([`snapshot ${safetyTags()[0]} of ${at('xvda.img')}`, at(aside() ?? '')]);
    expect(existsSync(journal())).toBe(true);
    await host.hypervisor.unpause(toDomid(8));
    const half = filesOf(host.directory);
    const error = await failure(recover());
    expect(error).toMatchObject({ code: 'NOT_RECOVERED', undone: [] });
    expect(error.undoFailures).toEqual([
      expect.stringMatching(/disk xvda: domain guest1 \(domid 8\) uses .*xvda\.img/),
      expect.stringMatching(/disk xvdb: domain guest1 \(domid 8\) uses .*s1-xvdb\.qcow2/),
    ]);
    expect(filesOf(host.directory)).toEqual(half);
    host.own.end();
    expect(await recover()).toMatchObject({ outcome: 'undone', guest: 'gone' });
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('is waited for, with its disks unchanged, if an xl is about to create it though its xlsnap was killed', async () => {
    await kill('before', 'restore');
    host.restorer = 4711;
    let asked = 0;
    host.after = async (call) => {
      if (call === 'restorer' && ++asked === 3) await host.toolstack.restore(at('s1.save'), undefined, {});
    };
    const half = diskContents();
    expect(await recover()).toMatchObject({ outcome: 'reverted', guest: 'paused', halfBuilt: 8 });
    expect(asked).toBe(3);
    expect(diskContents()).toEqual(half);
    host.own.end();
    // It ends without having created one.
    host.after = (call) => {
      if (call === 'restorer' && ++asked === 6) host.restorer = undefined;
    };
    expect(await recover()).toMatchObject({ outcome: 'undone', guest: 'gone' });
    expect(asked).toBe(7);
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('is reported, and nothing is touched, if it is neither created nor given up', async () => {
    await kill('before', 'restore');
    host.restorer = 4711;
    const half = filesOf(host.directory);
    let now = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => (now += 20_000));
    const error = await failure(recover());
    clock.mockRestore();
    expect(error).toMatchObject({ code: 'RESTORE_BUSY', exitCode: 14 });
    expect(error.message).toContain('pid 4711');
    expect(filesOf(host.directory)).toEqual(half);
    host.restorer = undefined;
  });

  it('need not have a configuration yet when the revert is run again during the restore', async () => {
    await kill('after', 'restore');
    host.fault = (call) => {
      if (call === 'domainConfig') throw new Error('it has none');
    };
    await revertSnapshot(host, request);
    expect(host.calls.lastIndexOf('destroy')).toBeGreaterThan(host.calls.indexOf('restore'));
    expect(host.runs).toBe(true);
    expect(existsSync(journal())).toBe(false);
    // Any other must have one.
    const error = await failure(revertSnapshot(host, request));
    expect(error).toMatchObject({ phase: 'check', message: 'it has none' });
  });

  it('is made to run if it was restored', async () => {
    await kill('before', 'unpause');
    expect(await recover()).toMatchObject({
      outcome: 'whole',
      guest: 'running',
      undone: expect.arrayContaining(['unpaused the domain']),
    });
    expect(host.runs).toBe(true);
    expect(aside()).toBeUndefined();
  });

  it.each<[string, () => void]>([
    ['it was made to run before, and someone has paused it', () => note({ step: 'unpaused' })],
    ['it is another life of it', () => (host.domid = toDomid(9))],
    ['the host was rebooted since', () => edit((text) => text.replace(/"boot":"[^"]*"/, '"boot":"another"'))],
    ['it is to be paused', () => edit((text) => text.replace('"state":"running"', '"state":"paused"'))],
  ])('a restored domain stays paused if %s', async (_what, change) => {
    await kill('before', 'unpause');
    change();
    expect(await recover()).toMatchObject({ outcome: 'whole', guest: 'paused' });
    expect(host.pauses).toBe(1);
    expect(existsSync(journal())).toBe(false);
  });

  it('is noted as running before the remaining work', async () => {
    let noted = '';
    const phase = (name: string): void => {
      if (name === 'finish' && noted === '') noted = readFileSync(journal(), 'utf8');
    };
    await revertSnapshot(host, request, { reporter: { ...silentReporter, phase } });
    expect(noted).toMatch(/"step":"restored","domid":8,.*\n.*"step":"unpaused".*\n$/);
  });

  it('is noted as restored, on disk, before anything that was kept is removed', async () => {
    await kill('before', 'undoSnapshots');
    const [, ...lines] = readFileSync(journal(), 'utf8').trim().split('\n');
    const steps = lines.map((line) => (JSON.parse(line) as { step: string }).step);
    expect(steps.slice(-3)).toEqual(['restored', 'unpaused', 'restored']);
    expect([safetyTags().length, aside() === undefined]).toEqual([1, false]);
    expect(await recover()).toMatchObject({ outcome: 'whole', guest: 'running' });
    expect([safetyTags(), aside()]).toEqual([[], undefined]);
  });

  it('is reported if it cannot be made to run', async () => {
    await kill('before', 'unpause');
    host.fault = (call) => {
      if (call === 'unpause') throw new Error('no unpause');
    };
    const error = await failure(recover());
    expect(error.undoFailures[0]).toMatch(/no unpause.*by hand: xl unpause 8/);
    expect(error.message).toContain('its disks are as at the snapshot');
  });
});

describe('what was kept of the former disks', () => {
  it('is removed from the image by the QEMU that uses it', async () => {
    bury = await killed(host, 'before', 'unpause', () => {
      const { fault } = host;
      host.fault = (call) => {
        if (call === 'deleteTag') throw new Error('no deleteTag');
        return fault(call);
      };
      return revertSnapshot(host, request);
    });
    expect(safetyTags()).toHaveLength(1);
    host.fault = (call) => {
      if (call === 'openDeviceModel') throw new Error('no QEMU');
    };
    expect((await failure(recover())).undoFailures[0]).toMatch(/no QEMU.*qemu-img snapshot -d/);
    host.fault = () => {};
    host.calls.length = 0;
    await recover();
    expect(safetyTags()).toEqual([]);
    expect(host.calls).toContain('undoSnapshots');
    expect(host.calls).not.toContain('deleteTag');
    expect(existsSync(journal())).toBe(false);
  });

  it('stays in the image if another domain uses it', async () => {
    await kill('after', 'unpause');
    host.own.end();
    host.othersUse.push(at('xvda.img'));
    const error = await failure(recover());
    expect(error.undoFailures[0]).toMatch(/uses .*xvda.img/);
    expect(safetyTags()).toHaveLength(1);
    expect(existsSync(journal())).toBe(true);
    host.othersUse.length = 0;
    await recover();
    expect(safetyTags()).toEqual([]);
    expect(existsSync(journal())).toBe(false);
  });

  it('stays and is named if it was to be kept', async () => {
    await kill('after', 'unpause', { keep: true });
    const { kept } = await recover();
    expect(kept).toEqual([at(aside() ?? '')]);
    expect(contentOf(kept?.[0] ?? '')).toBe('later');
  });
});

describe('the disks of a revert whose restore fails', () => {
  const failRestore = async (): Promise<XlsnapError> => {
    host.fault = (call) => {
      if (call === 'restore') throw new Error('no restore');
    };
    const error = await failure(revertSnapshot(host, request));
    host.fault = () => {};
    return error;
  };

  it('disks are as before once recover is given the journal, as the error says', async () => {
    const error = await failRestore();
    expect(error).toMatchObject({ code: 'RESTORE_FAILED', phase: 'restore', undoFailures: [] });
    expect(error.hint).toContain('run the same command again');
    expect(error.hint).toContain(`xlsnap recover ${journal()} puts its disks back as they were before`);
    expect(diskContents()).toEqual(['at the snapshot', 'at the snapshot']);
    expect(await recover()).toMatchObject({ outcome: 'undone', guest: 'gone' });
    expect(filesOf(host.directory)).toEqual(files);
  });

  it('are as before even after it has failed twice', async () => {
    await failRestore();
    await failRestore();
    expect(await recover()).toMatchObject({ outcome: 'undone', guest: 'gone' });
    expect(filesOf(host.directory)).toEqual(files);
  });

  it.each<[string, () => void, RegExp]>([
    [
      'was started on them',
      () => {
        writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), content: 'new' });
        host.own.domid = toDomid(9);
        host.inUse.set('xvda', at('xvda.img'));
        host.inUse.set('xvdb', overlay());
      },
      /disk xvda: domain guest1 \(domid 9\) uses/,
    ],
    [
      'has written to one of them since',
      () => {
        writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), content: 'new' });
        const later = Date.now() / 1000 + 3600;
        utimesSync(at('xvda.img'), later, later);
      },
      /disk xvda: .* was written to at .* To keep what it holds now: qemu-img snapshot -d/,
    ],
  ])('all disks stay as they are if a domain %s', async (_what, change, message) => {
    await failRestore();
    change();
    const half = filesOf(host.directory);
    const error = await failure(recover());
    expect(error).toMatchObject({ code: 'NOT_RECOVERED', undone: [] });
    expect(error.undoFailures[0]).toMatch(message);
    expect(filesOf(host.directory)).toEqual(half);
    // The next revert starts from the present state, and says where the former disks are.
    const told: string[] = [];
    const reporter = { ...silentReporter, log: (_level: string, text: string) => told.push(text) };
    const former = safetyTags()[0] ?? '';
    await revertSnapshot(host, { ...request, force: true }, { reporter });
    expect(told[0]).toContain(`snapshot ${former} of ${at('xvda.img')}`);
    expect(safetyTags()).toEqual([former]);
    expect(readImage(at('xvda.img')).tags[former]).toBe('later');
    expect(contentOf(at(aside() ?? ''))).toBe('later');
    expect(host.runs).toBe(true);
  });
});

describe('the revert that comes next', () => {
  it('reports what it found', async () => {
    await kill('before', 'createOverlay');
    const told: string[] = [];
    const reporter = { ...silentReporter, log: (_level: string, text: string) => told.push(text) };
    await planRevert(host, request, { reporter });
    expect(told.join()).toMatch(/earlier revert was killed, or is still running/);
    told.length = 0;
    await revertSnapshot(host, request, { reporter });
    expect(told).toEqual([
      'an earlier revert of guest1 to "s1" did not finish; the disks are as before it, and the domain is gone',
    ]);
  });

  it.each([
    ['before', 'restore', 'the disks are as before it, and the domain is gone'],
    ['after', 'unpause', 'it was done, and the domain is running'],
  ] as const)('reports how far the killed one came: %s %s', async (when, call, how) => {
    await kill(when, call);
    const told: string[] = [];
    const reporter = { ...silentReporter, log: (_level: string, text: string) => told.push(text) };
    await revertSnapshot(host, request, { reporter });
    expect(told).toEqual([`an earlier revert of guest1 to "s1" did not finish; ${how}`]);
  });

  it('touches nothing else if the disks cannot be put back', async () => {
    await kill('before', 'createOverlay');
    host.othersUse.push(at('xvda.img'));
    const half = filesOf(host.directory);
    const from = host.calls.length;
    const error = await failure(revertSnapshot(host, request));
    expect(error).toMatchObject({ code: 'NOT_RECOVERED', phase: 'recover' });
    expect(filesOf(host.directory)).toEqual(half);
    expect(host.calls.slice(from)).not.toContain('restore');
  });

  it('removes a journal that never got its first line', async () => {
    writeFileSync(journal(), '', { mode: 0o600 });
    await revertSnapshot(host, request);
    expect(existsSync(journal())).toBe(false);
  });

  it('continues with other options than the killed one, and names those in the command that it prints', async () => {
    await kill('before', 'restore', { running: true, force: true });
    expect((await recover()).next).toMatch(/ --running --force$/);
    const { source: _, ...config } = request.config;
    await bury();
    host.dead = false;
    bury = await killed(host, 'before', 'restore', () => revertSnapshot(host, { ...request, config }));
    expect(await recover()).not.toHaveProperty('next');
  });
});

it('a create warns of a revert that was killed', async () => {
  await kill('before', 'unpause');
  const { warnings } = await planCreate(host, { domain: 'guest1', name: 's2', sink: async () => {} });
  expect(warnings.join()).toContain(`xlsnap recover ${journal()}`);
});

it('a revert that is running is left alone', async () => {
  await kill('before', 'createOverlay');
  host.locked = true;
  const half = filesOf(host.directory);
  expect(await failure(recover())).toMatchObject({ code: 'DOMAIN_BUSY' });
  expect(filesOf(host.directory)).toEqual(half);
  host.locked = false;
});

describe('a qemu-img that the dead process has started', () => {
  it.each([
    ['applyTag', () => at('xvda.img')],
    [
      'createOverlay',
      () => `${overlay()}.fresh-${/"mark":"([^"]*)"/.exec(readFileSync(journal(), 'utf8'))?.[1]}`,
    ],
    ['unpause', () => at('xvda.img')],
  ])('is waited for: %s', async (call, path) => {
    await kill('before', call);
    host.workers.set(path(), 4711);
    let asked = 0;
    host.fault = (name) => {
      if (name === 'worker' && ++asked === 5) host.workers.clear();
      if (/Tag$/.test(name) && call !== 'createOverlay') expect(host.workers.size).toBe(0);
    };
    await recover();
    expect(asked).toBeGreaterThanOrEqual(5);
    expect(safetyTags()).toEqual([]);
  });

  it('is reported if it does not end', async () => {
    await kill('before', 'applyTag');
    host.workers.set(at('xvda.img'), 4711);
    let now = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => (now += 20_000));
    const error = await failure(recover());
    clock.mockRestore();
    expect(error.undoFailures[0]).toMatch(/pid 4711.* is still working on .*xvda/);
    host.workers.clear();
    await recover();
    expect(filesOf(host.directory)).toEqual(files);
  });
});

describe('a journal that cannot be written', () => {
  it.each(['/dev/null', '/proc/self'])(
    'a journal that cannot be written ends the revert before anything is touched: %s',
    async (place) => {
      Object.defineProperty(host, 'snapshotDir', { value: place });
      const error = await failure(revertSnapshot(host, request));
      expect(error).toMatchObject({ code: 'JOURNAL', exitCode: 12, phase: 'open', undoFailures: [] });
      expect(error.hint).toBeDefined();
      expect(host.calls).not.toContain('destroy');
      expect(host.runs).toBe(true);
      expect(filesOf(host.directory)).toEqual(files);
    },
  );
});

it('takes the directory with it that was created for it', async () => {
  const elsewhere = at('elsewhere');
  Object.defineProperty(host, 'snapshotDir', { value: elsewhere });
  await revertSnapshot(host, request);
  expect(existsSync(elsewhere)).toBe(false);
  host.fault = (call) => {
    if (call === 'restore') throw new Error('no restore');
  };
  await failure(revertSnapshot(host, request));
  host.fault = () => {};
  expect(existsSync(elsewhere)).toBe(true);
  await recoverAll(host);
  expect(existsSync(elsewhere)).toBe(false);
  await kill('before', 'createOverlay');
  expect(existsSync(elsewhere)).toBe(true);
  await recoverAll(host);
  expect(existsSync(elsewhere)).toBe(false);
});

describe('a journal of a revert', () => {
  const change = (key: string, value: unknown) => () =>
    edit((text) => {
      const [head = '', ...rest] = text.split('\n');
      return [JSON.stringify({ ...(JSON.parse(head) as object), [key]: value }), ...rest].join('\n');
    });

  it.each<[string, () => void, RegExp]>([
    ['others may write to it', () => chmodSync(journal(), 0o666), /another user/],
    ['it was moved', change('journal', '/x/y.revert.journal'), /not here/],
    ['it is of something else', change('kind', 'bench'), /no create, revert or delete/],
    ['its mark leads elsewhere', change('mark', '../x'), /mark/],
    ['its state is unknown', change('state', 'asleep'), /state/],
    ['its options are none', change('options', 1), /options/],
    ['its disks are none', change('disks', [{ kind: 'internal' }]), /disks\[0\]/],
    [
      'a disk would replace another file',
      change('disks', [
        {
          kind: 'external',
          vdev: 'xvda',
          base: '/b',
          baseFormat: 'raw',
          overlay: '/o',
          replaced: '/etc/passwd',
        },
      ]),
      /disks\[0\]/,
    ],
  ])('is refused because %s', async (_what, act, message) => {
    await kill('before', 'createOverlay');
    act();
    const half = filesOf(host.directory);
    for (const attempt of [recover, () => revertSnapshot(host, request)]) {
      const error = await failure(attempt());
      expect(error).toMatchObject({ code: 'JOURNAL', exitCode: 9 });
      expect(error.message).toMatch(message);
    }
    expect(filesOf(host.directory)).toEqual(half);
  });
});
