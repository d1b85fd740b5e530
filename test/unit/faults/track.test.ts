/**
 * Plants faults in every port call of a create of a tracked guest: whatever happens, the guest runs, and the next snapshot is right.
 */
import { rmSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import type { CreateRequest, CreateResult } from '../../../src/snapshot/api.ts';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { recoverAll } from '../../../src/snapshot/recover.ts';
import { readTrack } from '../../../src/snapshot/track/record.ts';
import { FakeGuest } from '../../../src/testing/fake-guest.ts';
import { FAKE_UUID, FakeHost } from '../../../src/testing/fake-host.ts';
import { fastDirectory, forEachFault, keepWriting, killed } from '../../support/scene.ts';
import { expectMemory } from '../../support/track.ts';

const PAGES = 20;

let count = 0;
afterAll(() => console.log(`  ${count} faults were planted in creates of tracked guests`));

/** A guest that is tracked since its snapshot s1. */
class Scene implements Disposable {
  readonly host: FakeHost;

  constructor(type: 'pvh' | 'hvm') {
    const guest = new FakeGuest(new Uint8Array(PAGES + 4).fill(15, PAGES));
    guest.maxBatch = 32;
    this.host = new FakeHost({ directory: fastDirectory('xlsnap-track-faults-'), type, guest });
  }

  static async tracked(type: 'pvh' | 'hvm'): Promise<Scene> {
    const scene = new Scene(type);
    await scene.create('s1');
    scene.host.guest.write(3, 303);
    scene.host.calls.length = 0;
    return scene;
  }

  create(name: string, options: { readonly signal?: AbortSignal } = {}): Promise<CreateResult> {
    return createSnapshot(this.host, this.#request(name), options);
  }

  #request(name: string): CreateRequest {
    const snapshotDir = this.host.directory;
    return { domain: 'guest1', name, snapshotDir, live: true, track: true, sync: false };
  }

  /** Has the guest write now and then, and calls `act` in call `at`. */
  plant(at: number, act: (name: string) => void | Promise<void>): void {
    let calls = 0;
    this.host.fault = (name) => {
      keepWriting(this.host, name, 5);
      return calls++ === at ? act(name) : undefined;
    };
  }

  calm(): void {
    this.host.fault = () => {};
    this.host.after = () => {};
  }

  /** What must hold after a fault. */
  async expectRight(where: string): Promise<void> {
    this.calm();
    const { host } = this;
    const { guest } = host;
    expect({ runs: host.runs, suspended: host.suspended }, where).toEqual({ runs: true, suspended: false });
    // A log that is on must be known, so that recover turns it off.
    if (readTrack(host, FAKE_UUID) === undefined)
      expect([guest.logging, host.machineLogs], where).toEqual([false, false]);
    else expect(guest.logging, where).toBe(true);
    guest.write(11, 1111);
    const { plan } = await this.create('s3');
    await expectMemory(plan.memoryPath, guest, where);
    guest.write(12, 1212);
    const last = await this.create('s4');
    expect(last.tracked, where).toMatchObject({ parent: plan.memoryPath });
    await expectMemory(last.plan.memoryPath, guest, where);
    expect(host.harm, where).toEqual([]);
  }

  [Symbol.dispose](): void {
    rmSync(this.host.directory, { recursive: true });
  }
}

/** Runs `body` for every port call of a tracked create. */
async function everywhere(
  type: 'pvh' | 'hvm',
  body: (scene: Scene, at: number, where: string) => Promise<void>,
): Promise<void> {
  using whole = await Scene.tracked(type);
  expect(await whole.create('s2')).toMatchObject({ tracked: { parent: expect.any(String) } });
  const calls = [...whole.host.calls];
  expect(calls).toEqual(expect.arrayContaining(['peekDirty', 'cloneMemory', 'setMarks']));
  await forEachFault(calls.entries(), async ([at, name]) => {
    using scene = await Scene.tracked(type);
    await body(scene, at, `call ${at}, ${name}`);
    count++;
  });
}

describe.each(['pvh', 'hvm'] as const)(
  'after a create of a tracked %s guest',
  { timeout: 300_000 },
  (type) => {
    it('in which any port call fails, the next snapshots are right', async () => {
      await everywhere(type, async (scene, at, where) => {
        scene.plant(at, (name) => {
          throw new Error(`planted in ${name}`);
        });
        await scene.create('s2').catch(() => {});
        await recoverAll(scene.host, scene.host.directory).catch(() => {});
        await scene.expectRight(where);
      });
    });

    it('that is interrupted in any port call, the next snapshots are right', async () => {
      await everywhere(type, async (scene, at, where) => {
        const abort = new AbortController();
        scene.plant(at, () => abort.abort());
        await scene.create('s2', { signal: abort.signal }).catch(() => {});
        await scene.expectRight(where);
      });
    });

    it.each(['before', 'after'] as const)(
      'whose process is killed %s any port call takes effect, the next snapshots are right',
      async (when) => {
        await everywhere(type, async (scene, at, where) => {
          const { host } = scene;
          const end = await killed(host, when, at, () => scene.create('s2'));
          await recoverAll(host, host.directory);
          await scene.expectRight(where);
          await end();
        });
      },
    );

    it.each([false, true])(
      'beside which another program saves the domain at any moment (and is killed: %s), no wrong memory is kept',
      async (dies) => {
        await everywhere(type, async (scene, at, where) => {
          const { host } = scene;
          scene.plant(at, () => {
            // While the guest is stopped nobody else can save it.
            if (!host.suspended) host.guest.foreignSave({ killed: dies });
          });
          const result = await scene.create('s2').catch(() => undefined);
          if (result !== undefined) await expectMemory(result.plan.memoryPath, host.guest, where);
          await scene.expectRight(where);
        });
      },
    );
  },
);
