/**
 * What the guarantee says, for every port call of a create: an error in it, an abort, a call that hangs, and a process that is
 * killed before or after it took effect.
 */
import { rmSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { createSnapshot } from '../../../src/snapshot/create.ts';
import { recoverSnapshot } from '../../../src/snapshot/recover.ts';
import type { CreateRequest } from '../../../src/snapshot/types.ts';
import { FakeGuest } from '../../../src/testing/fake-guest.ts';
import { FakeHost } from '../../../src/testing/fake-host.ts';
import {
  type Before,
  before,
  type DiskKind,
  expectAsBefore,
  expectGuestAsBefore,
  failure,
  fastDirectory,
  forEachOf,
  keepWriting,
  snapshotConfig,
} from '../../support/scene.ts';

interface Kind {
  readonly type: 'pvh' | 'hvm' | 'pv';
  readonly paused: boolean;
  readonly live: boolean;
  readonly disks: readonly DiskKind[];
}

const DISKS: readonly (readonly DiskKind[])[] = [[], ['internal'], ['external'], ['external', 'internal']];

/** Each disk kind with each type; running and paused, live and not, among them. */
const kinds: Kind[] = DISKS.flatMap((disks, i) =>
  (['pvh', 'hvm'] as const).flatMap((type, j) => [
    { type, disks, paused: (i + j) % 2 === 1, live: false },
    { type, disks, paused: (i + j) % 2 === 0, live: true },
  ]),
);

kinds.push({ type: 'pv', disks: ['internal'], paused: false, live: false });
kinds.push({ type: 'pv', disks: ['external'], paused: true, live: true });

/** Pages of the guest; small, for there are many runs. */
const PAGES = 20;

let count = 0;
afterAll(() => console.log(`  ${count} faults were planted in creates`));

/** A host of its own for one run, with a create that is about to begin. */
class Scene implements Disposable {
  readonly host: FakeHost;
  readonly request: CreateRequest;
  readonly was: Before;
  readonly #live: boolean;
  /** Ends the call that hangs. */
  #release = (): void => {};

  constructor({ type, paused, live, disks }: Kind) {
    const directory = fastDirectory('xlsnap-faults-');
    const guest = new FakeGuest(new Uint8Array(PAGES + 4).fill(15, PAGES));
    guest.maxBatch = 32;
    this.host = new FakeHost({
      directory,
      type,
      paused,
      guest,
      disks: disks.map((_, i) => ({ vdev: `xvd${'ab'[i]}` })),
    });
    this.#live = live;
    this.was = before(this.host);
    const config = snapshotConfig('s1', directory, disks);
    this.request = { domain: 'guest1', config, live, sync: false };
    this.#let(() => {});
  }

  /** Has `act` done in call `at`, before it takes effect or after. */
  plant(at: number, when: 'before' | 'after', act: (name: string) => void | Promise<void>): void {
    let before = 0;
    let after = 0;
    this.#let((name) => (before++ === at && when === 'before' ? act(name) : undefined));
    this.host.after = (name) => (after++ === at && when === 'after' ? act(name) : undefined);
  }

  /** For `plant`: a call that does not end until `release`. */
  readonly hang = (): Promise<never> =>
    new Promise((_, reject) => {
      this.#release = () => reject(new Error('it hung'));
    });

  async release(): Promise<void> {
    this.#release();
    await new Promise((resolve) => setImmediate(resolve));
  }

  #let(act: (name: string) => void | Promise<void>): void {
    this.host.fault = (name) => {
      if (this.#live) keepWriting(this.host, name, PAGES);
      return act(name);
    };
  }

  /** No more faults. */
  calm(): void {
    this.#let(() => {});
    this.host.after = () => {};
  }

  /** As another process does it, once the one that created is gone. */
  async recover(): Promise<void> {
    this.calm();
    await recoverSnapshot(this.host, { path: this.request.config?.memoryPath ?? '' });
  }

  [Symbol.dispose](): void {
    rmSync(this.host.directory, { recursive: true });
  }
}

/** Every port call of a create that goes well, in order. */
async function callsOf(kind: Kind): Promise<readonly string[]> {
  using scene = new Scene(kind);
  await createSnapshot(scene.host, scene.request);
  return [...scene.host.calls];
}

/** Runs `body` for every port call. */
async function everywhere(
  kind: Kind,
  body: (scene: Scene, at: number, where: string, calls: readonly string[]) => Promise<void>,
): Promise<void> {
  const calls = await callsOf(kind);
  expect(calls.length).toBeGreaterThan(12);
  await forEachOf(calls.entries(), async ([at, name]) => {
    using scene = new Scene(kind);
    await body(scene, at, `call ${at}, ${name}`, calls);
    count++;
  });
}

const named = kinds.map((kind) => {
  const disks = kind.disks.length === 0 ? 'no disks' : kind.disks.join(' and ');
  const state = `${kind.paused ? 'paused' : 'running'} ${kind.type} guest`;
  return [`${state}, ${disks}${kind.live ? ', live' : ''}`, kind] as const;
});

describe.each(named)('a create of a %s', (_name, kind) => {
  it('that fails in any port call leaves all as before', async () => {
    await everywhere(kind, async (scene, at, where, calls) => {
      // The guest goes on, and what comes after that is a warning.
      if (at > calls.lastIndexOf('resume')) return;
      scene.plant(at, 'before', (name) => {
        throw new Error(`planted in ${name}`);
      });
      const error = await failure(createSnapshot(scene.host, scene.request));
      expect(error.message, where).toContain('planted');
      expect(error.undoFailures, where).toEqual([]);
      expectAsBefore(scene.host, scene.was, where);
    });
  });

  it('that is interrupted in any port call leaves all as before', async () => {
    await everywhere(kind, async (scene, at, where) => {
      const abort = new AbortController();
      scene.plant(at, 'before', () => abort.abort());
      const error = await failure(createSnapshot(scene.host, scene.request, { signal: abort.signal }));
      expect(error.code, where).toBe('INTERRUPTED');
      expect(error.undoFailures, where).toEqual([]);
      expectAsBefore(scene.host, scene.was, where);
    });
  });

  it('that hangs in any port call and is interrupted lets the guest go on', async () => {
    await everywhere(kind, async (scene, at, where) => {
      const abort = new AbortController();
      const limits = { signal: abort.signal, graceMs: 2, undoTimeoutMs: 300 };
      scene.plant(at, 'before', () => {
        abort.abort();
        return scene.hang();
      });
      const error = await failure(createSnapshot(scene.host, scene.request, limits));
      expect(error.code, where).toBe('INTERRUPTED');
      expectGuestAsBefore(scene.host, scene.was, where);
      // What hangs may take effect yet, so the journal stays, for `recover`.
      await scene.recover();
      expectAsBefore(scene.host, scene.was, where);
      await scene.release();
      expectAsBefore(scene.host, scene.was, where);
    });
  });

  it.each(['before', 'after'] as const)(
    'whose process is killed %s any port call takes effect is undone by recover',
    async (when) => {
      await everywhere(kind, async (scene, at, where) => {
        const { host } = scene;
        const killed = new Promise<void>((resolve) => {
          scene.plant(at, when, () => {
            resolve();
            return scene.hang();
          });
        });
        const dead = createSnapshot(host, scene.request).catch(() => {});
        await killed;
        // What the kernel does.
        host.locked = false;
        host.guarded.clear();
        await scene.recover();
        expectAsBefore(host, scene.was, where);
        await scene.recover();
        expectAsBefore(host, scene.was, where);
        // The process of this test goes on, though.
        host.dead = true;
        await scene.release();
        await dead;
      });
    },
  );
});
