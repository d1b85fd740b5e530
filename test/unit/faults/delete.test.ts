/**
 * Whatever port call of a delete fails, is interrupted or hangs, and wherever its process is killed: a snapshot that is listed
 * as good is complete, and the same command, or recover, deletes the rest.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { InterruptedError, type XlsnapError } from '../../../src/core/errors.ts';
import { silentReporter } from '../../../src/core/reporter.ts';
import { configDisks } from '../../../src/memfile/libxl-config.ts';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { deleteSnapshots } from '../../../src/snapshot/delete/delete.ts';
import { listSnapshots } from '../../../src/snapshot/list/list.ts';
import { recoverAll } from '../../../src/snapshot/recover.ts';
import { FakeGuest } from '../../../src/testing/fake-guest.ts';
import { contentOf, FakeHost, readImage } from '../../../src/testing/fake-host.ts';
import {
  type DiskKind,
  failure,
  fakeDisks,
  fastDirectory,
  filesOf,
  forEachFault,
  killed,
  snapshotConfig,
} from '../../support/scene.ts';

interface Kind {
  readonly disks: readonly DiskKind[];
  readonly running: boolean;
  /** Whether its overlays are merged into their bases. */
  readonly merge?: boolean;
  /** Whether it was started on the overlays, as after a revert. */
  readonly restarted?: boolean;
}

const KINDS: readonly Kind[] = [
  { disks: [], running: true },
  { disks: ['internal'], running: true },
  { disks: ['internal'], running: false },
  { disks: ['external'], running: true },
  { disks: ['internal', 'internal'], running: true },
  { disks: ['internal', 'external'], running: false },
  { disks: ['external'], running: true, merge: true },
  { disks: ['external'], running: true, merge: true, restarted: true },
  { disks: ['external'], running: false, merge: true },
  { disks: ['internal', 'external'], running: true, merge: true },
  { disks: ['external', 'external'], running: false, merge: true },
  { disks: ['clone', 'internal'], running: false },
  { disks: ['thin'], running: true },
  { disks: ['thick'], running: false },
];

let count = 0;
afterAll(() => console.log(`  ${count} faults were planted in deletes`));

/** A host with two snapshots: `s1` is to be deleted, and `s2` stays. */
class Scene implements Disposable {
  readonly host: FakeHost;
  readonly files: Record<string, string>;
  readonly memoryPath: string;
  readonly contents: readonly string[];
  readonly kind: Kind;

  private constructor(host: FakeHost, memoryPath: string, kind: Kind) {
    this.host = host;
    this.kind = kind;
    this.memoryPath = memoryPath;
    this.files = filesOf(host.directory);
    this.contents = this.#contents();
    host.calls.length = 0;
  }

  static async make(kind: Kind): Promise<Scene> {
    const { disks: kinds, running, merge } = kind;
    const directory = fastDirectory('xlsnap-faults-');
    const guest = new FakeGuest(new Uint8Array(24).fill(15, 20));
    guest.maxBatch = 32;
    const disks = fakeDisks(kinds);
    const host = new FakeHost({ directory, guest, disks });
    host.write('at the first');
    const take = async (name: string, how: readonly DiskKind[]): Promise<string> => {
      const config = snapshotConfig(name, directory, how);
      const { plan } = await createSnapshot(host, { domain: 'guest1', config, sync: false });
      host.write(`after ${name}`);
      return plan.memoryPath;
    };
    const stays = (): Promise<string> =>
      take(
        's2',
        kinds.map(() => 'internal'),
      );
    // An overlay is merged only while no later snapshot depends on it.
    if (merge === true) await stays();
    const memoryPath = await take('s1', kinds);
    if (merge !== true) await stays();
    if (kind.restarted === true) host.reboot();
    host.write('now');
    if (!running) host.own.end();
    return new Scene(host, memoryPath, kind);
  }

  delete(limits = {}) {
    const { merge } = this.kind;
    return deleteSnapshots(this.host, { domain: 'guest1', snapshots: ['s1'], merge }, limits);
  }

  #paths(): string[] {
    return Object.keys(this.files).filter((path) => /\.(img|qcow2)$/.test(path) && existsSync(path));
  }

  /** What is in all images, tags aside; if some are merged, what the guest reads from its disks. */
  #contents(): readonly string[] {
    const { kind, host } = this;
    if (kind.merge !== true) return this.#paths().map((path) => `${path}: ${contentOf(path)}`);
    return kind.disks.map((_, i) => {
      const vdev = `xvd${'ab'[i]}`;
      const images = [
        host.inUse.get(vdev),
        `${host.directory}/s1-${vdev}.qcow2`,
        `${host.directory}/${vdev}.img`,
      ];
      return contentOf(images.find((path) => path !== undefined && existsSync(path)) ?? '');
    });
  }

  tags(name: string): number {
    return this.#paths().filter((path) => name in readImage(path).tags).length;
  }

  /** No data of a guest changes, and the other snapshot is as good as before. */
  async expectOthers(where: string): Promise<void> {
    expect(this.#contents(), where).toEqual(this.contents);
    const { snapshots } = await listSnapshots(this.host);
    const other = snapshots.find(({ name }) => name === 's2');
    // A revert to an older one is risky while it would make a later one useless.
    const risks = other?.risks.filter(({ risk }) => risk !== 'later-snapshot');
    expect({ problems: other?.problems, risks }, where).toEqual({ problems: [], risks: [] });
    expect(this.host.locked, where).toBe(false);
  }

  /** Whether the manifest stays, since it names an overlay that was not merged. */
  get leaves(): boolean {
    return this.kind.merge !== true && this.kind.disks.includes('external');
  }

  async expectGone(where: string): Promise<void> {
    await this.expectOthers(where);
    for (const end of ['', '.cfg', '.journal', ...(this.leaves ? [] : ['.json'])]) {
      expect(existsSync(`${this.memoryPath}${end}`), `${where}: ${end}`).toBe(false);
    }
    expect(this.tags('s1'), where).toBe(0);
    expect([...this.host.own.jobs, ...this.host.own.unclosed.values()], where).toEqual([]);
    if (this.kind.merge === true) {
      const left = readdirSync(this.host.directory).filter((name) => name.endsWith('.qcow2'));
      expect(left, where).toEqual([]);
      const named = configDisks(this.host.config).map(({ path }) => path);
      if (this.kind.running) expect(named, where).toEqual([...this.host.inUse.values()]);
    }
    const { snapshots } = await listSnapshots(this.host);
    expect(
      snapshots.map(({ name, revert }) => `${name} ${revert}`),
      where,
    ).toEqual([...(existsSync(`${this.memoryPath}.json`) ? ['s1 impossible'] : []), 's2 possible']);
    expect(snapshots.find(({ name }) => name === 's1')?.problems ?? [], where).toMatchObject(
      existsSync(`${this.memoryPath}.json`) ? [{ code: 'OVERLAY_LEFT' }] : [],
    );
  }

  /** It is listed as good only if all of it is there. */
  async expectTrueList(where: string): Promise<'whole' | 'begun' | 'gone'> {
    await this.expectOthers(where);
    const { snapshots } = await listSnapshots(this.host);
    const found = snapshots.find(({ name }) => name === 's1');
    if (found === undefined || found.problems.some(({ code }) => code === 'OVERLAY_LEFT')) return 'gone';
    // An older snapshot below a later one is risky, with nothing of it missing.
    if (found.problems.length > 0) return 'begun';
    expect(filesOf(this.host.directory), where).toEqual(this.files);
    return 'whole';
  }

  [Symbol.dispose](): void {
    expect(this.host.harm).toEqual([]);
    rmSync(this.host.directory, { recursive: true });
  }
}

type How = 'fails' | 'is interrupted' | 'hangs and is interrupted';

const cases = KINDS.map((kind) => {
  const how = kind.disks.length === 0 ? 'no disks' : kind.disks.join(' and ');
  const state = kind.restarted === true ? 'restarted' : kind.running ? 'running' : 'down';
  return [kind.merge === true ? `${how}, merged` : how, state, kind] as const;
});

/** Every port call of a delete that goes well, in order. */
async function callsOf(kind: Kind): Promise<readonly string[]> {
  using scene = await Scene.make(kind);
  await scene.delete();
  const calls = [...scene.host.calls];
  await scene.expectGone('without a fault');
  expect(calls.length).toBeGreaterThan(3);
  return calls;
}

describe.each(cases)('a delete of a snapshot with %s, the domain %s,', (_how, _state, kind) => {
  it.each(['fails', 'is interrupted', 'hangs and is interrupted'] as const)(
    'that %s in any port call leaves no snapshot that only looks complete, and can be done again',
    async (how) => {
      await forEachFault((await callsOf(kind)).entries(), async ([at, name]) => {
        using scene = await Scene.make(kind);
        await oneFault(scene, how, at, `${how} in call ${at}, ${name}`);
        count++;
      });
    },
  );

  it.each(['before', 'after'] as const)(
    'whose process is killed %s any port call takes effect is finished by recover, or by the same command',
    async (when) => {
      await forEachFault((await callsOf(kind)).entries(), async ([at, name]) => {
        for (const first of ['recover', 'the same command']) {
          using scene = await Scene.make(kind);
          const where = `killed ${when} call ${at}, ${name}; then ${first}`;
          const bury = await killed(scene.host, when, at, () => scene.delete());
          const state = await scene.expectTrueList(where);
          if (first === 'recover') await expectRecovered(scene, state, where);
          else await scene.delete();
          await scene.expectGone(where);
          const files = filesOf(scene.host.directory);
          await bury();
          expect(filesOf(scene.host.directory), where).toEqual(files);
          count++;
        }
      });
    },
  );

  it('whose process is killed between any two files is finished by recover, or by the same command', async () => {
    const ends = ['.cfg', '', ...(kind.merge !== true && kind.disks.includes('external') ? [] : ['.json'])];
    const calls = (await callsOf(kind)).length;
    for (const [gone, first] of ends.flatMap((_, i) => [
      [i + 1, 'recover'] as const,
      [i + 1, 'the same command'] as const,
    ])) {
      using scene = await Scene.make(kind);
      const where = `${gone} files are gone; then ${first}`;
      // The last port call has taken effect, and nothing behind it.
      const bury = await killed(scene.host, 'after', calls - 1, () => scene.delete());
      if (!existsSync(`${scene.memoryPath}.journal`)) {
        // Without disks that have something to delete, no port call follows the journal's creation.
        expect(kind.disks.includes('internal') || kind.merge === true, where).toBe(false);
        await bury();
        continue;
      }
      for (const end of ends.slice(0, gone)) rmSync(`${scene.memoryPath}${end}`);
      expect(await scene.expectTrueList(where)).not.toBe('whole');
      if (first === 'recover') await recoverAll(scene.host);
      else await scene.delete();
      await scene.expectGone(where);
      await bury();
      count++;
    }
  });
});

async function expectRecovered(
  scene: Scene,
  state: 'whole' | 'begun' | 'gone',
  where: string,
): Promise<void> {
  const { host } = scene;
  const results = await recoverAll(host);
  if (state === 'whole') {
    expect(results, where).toEqual([]);
    await scene.delete();
    return;
  }
  expect(results, where).toMatchObject([
    { kind: 'delete', outcome: 'deleted', name: 's1', domain: 'guest1' },
  ]);
  await scene.expectGone(where);
  expect(await recoverAll(host), where).toEqual([]);
  expect((await failure(scene.delete())).code, where).toBe(scene.leaves ? 'OVERLAY_LEFT' : 'NO_SNAPSHOT');
}

async function oneFault(scene: Scene, how: How, at: number, where: string): Promise<void> {
  const { host } = scene;
  const abort = new AbortController();
  let call = 0;
  let release = (): void => {};
  host.fault = (name) => {
    if (call++ !== at) return;
    if (how === 'fails') throw new Error(`planted in ${name}`);
    abort.abort();
    if (how === 'is interrupted') return;
    return new Promise<never>((_, reject) => {
      release = () => reject(new Error('it hung'));
    });
  };
  const limits =
    how === 'hangs and is interrupted'
      ? { signal: abort.signal, graceMs: 2, undoTimeoutMs: 300 }
      : { signal: abort.signal };
  const warnings: string[] = [];
  const reporter = { ...silentReporter, log: (_: string, text: string) => void warnings.push(text) };
  let error: XlsnapError | undefined;
  try {
    error = await scene.delete({ ...limits, reporter }).then(
      () => undefined,
      (problem: XlsnapError) => problem,
    );
  } finally {
    host.fault = () => {};
    release();
  }
  const state = await scene.expectTrueList(where);
  if (error === undefined) {
    if (how === 'fails') {
      // The domain is on the base by then: that only deserves a warning.
      expect(warnings.join(), where).toContain('planted in closeOverlay');
      host.own.unclosed.clear();
    }
    await scene.expectGone(where);
    return;
  }
  if (how === 'fails') expect(`${error.message} ${String(error.cause)}`, where).toContain('planted');
  else expect(error, where).toBeInstanceOf(InterruptedError);
  // An error that leaves something says how to delete the rest, and one that does not leaves all as before.
  if (state === 'whole') {
    if (how !== 'hangs and is interrupted') expect(error.undoFailures, where).toEqual([]);
  } else {
    expect(error.undoFailures.join(), where).toContain(`xlsnap recover ${scene.memoryPath}`);
    expect(readFileSync(`${scene.memoryPath}.journal`, 'utf8'), where).toContain('"kind":"delete"');
  }
  await scene.delete();
  await scene.expectGone(where);
}
