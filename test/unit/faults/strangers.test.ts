/**
 * Tests that what other programs make under the names that a create wants stays as it is, whenever they make it, and whatever then
 * becomes of the create: it is undone, or killed and recovered.
 */
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { recoverSnapshot } from '../../../src/snapshot/recover.ts';
import { FakeGuest } from '../../../src/testing/fake-guest.ts';
import { FakeHost, readImage, writeImage } from '../../../src/testing/fake-host.ts';
import {
  type DiskKind,
  fakeDisks,
  fastDirectory,
  forEachFault,
  keepWriting,
  snapshotConfig,
} from '../../support/scene.ts';

const KINDS: readonly { readonly disks: readonly DiskKind[]; readonly live: boolean }[] = [
  { disks: ['external', 'internal'], live: false },
  { disks: ['clone', 'external'], live: true },
];

let count = 0;
afterAll(() => console.log(`  ${count} files and tags of other programs were planted`));

class Scene implements Disposable {
  readonly host: FakeHost;
  readonly create: () => Promise<unknown>;
  /** What a create makes there. */
  readonly paths: readonly string[];
  readonly path: string;

  constructor({ disks, live }: (typeof KINDS)[number]) {
    const directory = fastDirectory('xlsnap-strangers-');
    const guest = new FakeGuest(new Uint8Array(24).fill(15, 20));
    guest.maxBatch = 32;
    this.host = new FakeHost({ directory, guest, disks: fakeDisks(disks) });
    if (live) this.host.fault = (call) => keepWriting(this.host, call, 20);
    const config = snapshotConfig('s1', directory, disks);
    this.path = config.memoryPath ?? '';
    const texts = [this.path, `${this.path}.json`, `${this.path}.cfg`];
    const images = (config.disks ?? []).flatMap((disk) => (disk.kind === 'internal' ? [] : [disk.path]));
    this.paths = [...texts, ...texts.map((text) => `${text}.partial`), ...images];
    this.create = () => createSnapshot(this.host, { domain: 'guest1', config, live, sync: false });
  }

  /** Calls `act` before a port call takes effect. */
  before(at: number, act: () => void): void {
    let call = 0;
    const before = this.host.fault;
    this.host.fault = async (name) => {
      await before(name);
      if (call++ === at) act();
    };
  }

  /**
   * Begins the create, calls `act` before a port call takes effect, and kills the process in the next one, or when it has ended.
   * @returns a function that ends what the dead process still waits for
   */
  async killAfter(at: number, act: () => void): Promise<() => Promise<void>> {
    const { host } = this;
    let release = (): void => {};
    let stopped = (): void => {};
    const killed = new Promise<void>((resolve) => {
      stopped = resolve;
    });
    let call = 0;
    const before = host.fault;
    host.fault = async (name) => {
      await before(name);
      if (call === at) act();
      if (call++ !== at + 1) return;
      stopped();
      await new Promise<never>((_, stop) => {
        release = () => stop(new Error('gone'));
      });
    };
    const create = this.create().catch(() => {});
    await Promise.race([create, killed]);
    host.fault = () => {};
    host.locked = false;
    host.guarded.clear();
    return async () => {
      host.dead = true;
      release();
      await create;
    };
  }

  [Symbol.dispose](): void {
    rmSync(this.host.directory, { recursive: true });
  }
}

/** A file of another program, empty or not. */
class Planted {
  readonly #path: string;
  readonly #content: string;
  #inode: number | undefined;

  constructor(path: string, content: string) {
    this.#path = path;
    this.#content = content;
  }

  /** Creates it, unless the create was first. */
  plant(): void {
    if (existsSync(this.#path)) return;
    writeFileSync(this.#path, this.#content);
    this.#inode = statSync(this.#path).ino;
  }

  expectThere(where: string): void {
    if (this.#inode === undefined) return;
    count++;
    expect(existsSync(this.#path), where).toBe(true);
    expect(statSync(this.#path).ino, where).toBe(this.#inode);
    expect(readFileSync(this.#path, 'utf8'), where).toBe(this.#content);
  }
}

async function callsOf(kind: (typeof KINDS)[number]): Promise<number> {
  using scene = new Scene(kind);
  await scene.create();
  return scene.host.calls.length;
}

describe.each(KINDS)('a create with $disks, live: $live', (kind) => {
  it.each(['', 'theirs'])(
    'leaves a file with the content "%s" that appears where it wants one',
    async (content) => {
      const calls = await callsOf(kind);
      using sample = new Scene(kind);
      const cases = Array.from({ length: calls }, (_, at) =>
        sample.paths.map((_path, which) => ({ at, which })),
      ).flat();
      await forEachFault(cases, async ({ at, which }) => {
        using scene = new Scene(kind);
        const planted = new Planted(scene.paths[which] ?? '', content);
        const where = `before call ${at}: ${scene.paths[which]}`;
        scene.before(at, () => planted.plant());
        await scene.create().catch(() => {});
        planted.expectThere(where);
        expect(scene.host.harm, where).toEqual([]);
        await recoverSnapshot(scene.host, { path: scene.path });
        planted.expectThere(where);
      });
    },
  );

  it('leaves it if its process is then killed, and another one recovers', async () => {
    const calls = await callsOf(kind);
    using sample = new Scene(kind);
    const cases = Array.from({ length: calls }, (_, at) =>
      sample.paths.map((_path, which) => ({ at, which })),
    ).flat();
    await forEachFault(cases, async ({ at, which }) => {
      using scene = new Scene(kind);
      const { host } = scene;
      const planted = new Planted(scene.paths[which] ?? '', '');
      const where = `killed in call ${at}: ${scene.paths[which]}`;
      const bury = await scene.killAfter(at, () => planted.plant());
      await recoverSnapshot(host, { path: scene.path });
      planted.expectThere(where);
      await bury();
    });
  });
});

it('a tag of another program stays if the create fails for it', async () => {
  const [kind = { disks: ['internal'], live: false } as const] = KINDS;
  const calls = await callsOf(kind);
  for (let at = 0; at < calls; at++) {
    using scene = new Scene(kind);
    const { host } = scene;
    const image = `${host.directory}/xvdb.img`;
    let theirs = false;
    scene.before(at, () => {
      const now = readImage(image);
      if ('s1' in now.tags) return;
      writeImage(image, { ...now, tags: { s1: 'theirs' } });
      theirs = true;
      count++;
    });
    const done = await scene.create().then(
      () => true,
      () => false,
    );
    if (theirs)
      expect({ done, tags: readImage(image).tags }, `before call ${at}`).toEqual({
        done: false,
        tags: { s1: 'theirs' },
      });
  }
});
