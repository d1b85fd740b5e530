/**
 * Tests the guarantee if the storage of the memory file hangs: each call on a file there, in turn, never
 * returns, or the storage does not answer from that call on. The guest must keep running, or resume soon.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it, vi } from 'vitest';
import type { CreateRequest } from '../../../src/snapshot/api.ts';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { FakeGuest } from '../../../src/testing/fake-guest.ts';
import { FakeHost } from '../../../src/testing/fake-host.ts';
import { HangingFiles } from '../../support/hanging-files.ts';
import { Fifos, Received } from '../../support/received.ts';
import {
  type Before,
  before,
  type CreateKind,
  expectGuestAsBefore,
  fastDirectory,
  forEachFault,
  keepWriting,
  snapshotConfig,
} from '../../support/scene.ts';

const KINDS: readonly CreateKind[] = [
  { type: 'pvh', live: false, paused: false, disks: ['external', 'internal'] },
  { type: 'pvh', live: true, paused: true, disks: [] },
  { type: 'hvm', live: false, paused: true, disks: [] },
  { type: 'hvm', live: true, paused: false, disks: ['external', 'internal'] },
  { type: 'pv', live: false, paused: false, disks: ['internal'] },
  { type: 'pv', live: true, paused: false, disks: ['external'] },
  { type: 'pvh', live: true, paused: false, disks: ['internal'], to: 'a sink' },
  { type: 'hvm', live: false, paused: false, disks: ['external'], to: 'a FIFO' },
];

const PAGES = 20;
/** A guest that does not run by then has been kept stopped. */
const SOON_MS = 20_000;

let count = 0;
afterAll(() => console.log(`  ${count} calls on files hung in creates`));

const fifoDirectory = fastDirectory('xlsnap-fifos-');
afterAll(() => rmSync(fifoDirectory, { recursive: true }));
const fifos = new Fifos(fifoDirectory);

class Scene implements Disposable {
  readonly host: FakeHost;
  readonly request: CreateRequest;
  readonly was: Before;
  readonly files: HangingFiles;
  readonly #directory = fastDirectory('xlsnap-hanging-');
  readonly #received: Received | undefined;
  /** Whether a call in this thread hung: the process does nothing any more. */
  stuck = false;
  /** Calls in this thread that hung while the guest was stopped. */
  readonly held: string[] = [];

  constructor({ type, live, paused, disks, to }: CreateKind) {
    const storage = join(this.#directory, 'storage');
    mkdirSync(storage);
    const guest = new FakeGuest(new Uint8Array(PAGES + 8).fill(15, PAGES));
    guest.maxBatch = 1024;
    this.host = new FakeHost({
      directory: this.#directory,
      type,
      paused,
      guest,
      disks: disks.map((_, i) => ({ vdev: `xvd${'ab'[i]}` })),
    });
    const { host } = this;
    if (paused) host.dirtyRoom = () => 0;
    host.fault = (call) => {
      if (!live) return;
      keepWriting(host, call, PAGES);
      // Pages that come and go at the last moment.
      if (call === 'suspend' && !host.suspended) {
        guest.setType(PAGES + 1, 0);
        guest.setType(3, 15);
      }
    };
    const config = { ...snapshotConfig('s1', this.#directory, disks), memoryPath: join(storage, 's1.save') };
    this.request = { domain: 'guest1', config, live, snapshotDir: storage };
    if (to === 'a FIFO') {
      const memoryPath = fifos.next();
      this.#received = Received.from(memoryPath);
      this.request = { ...this.request, config: { ...config, memoryPath } };
    }
    if (to === 'a sink') {
      const { memoryPath: _, ...rest } = config;
      const received = new Received();
      this.#received = received;
      this.request = { ...this.request, config: rest, sink: async (bytes) => received.take(bytes) };
    }
    this.was = before(host);
    this.files = new HangingFiles(storage);
  }

  /** Makes the storage hang in that call, and after it unless `once`. */
  hang(at: number, once: boolean, then: () => void = () => {}): void {
    this.files.hangsAt = at;
    this.files.once = once;
    this.files.onHang = (name, here) => {
      if (here && !this.stuck) {
        this.stuck = true;
        if (this.host.suspended || this.host.machineStopped) this.held.push(name);
      }
      then();
    };
  }

  [Symbol.dispose](): void {
    this.files[Symbol.dispose]();
    this.#received?.[Symbol.dispose]();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

async function callsOf(kind: CreateKind): Promise<readonly string[]> {
  using scene = new Scene(kind);
  await createSnapshot(scene.host, scene.request);
  return scene.files.calls.map(({ name, here }) => (here ? `${name} (in this thread)` : name));
}

async function everywhere(
  kind: CreateKind,
  body: (scene: Scene, at: number, where: string) => Promise<void>,
): Promise<void> {
  const calls = await callsOf(kind);
  expect(calls.length).toBeGreaterThan(3);
  const one = async ([at, name]: [number, string]): Promise<void> => {
    using scene = new Scene(kind);
    await body(scene, at, `call ${at}, ${name}`);
    count++;
  };
  await forEachFault(calls.entries(), one, 16);
}

const named = KINDS.map((kind) => {
  const { type, live, paused, to } = kind;
  return [
    `${paused ? 'paused' : 'running'} ${type} guest${live ? ', live' : ''}${to ? `, to ${to}` : ''}`,
    kind,
  ] as const;
});

describe.each(named)('a create of a %s', (_name, kind) => {
  it.each([
    ['one call', true],
    ['the storage, from one call on,', false],
  ] as const)('the guest resumes when %s hangs and the create is interrupted', async (_what, once) => {
    await everywhere(kind, async (scene, at, where) => {
      const { host, was } = scene;
      const abort = new AbortController();
      scene.hang(at, once, () => setImmediate(() => abort.abort()));
      const limits = { signal: abort.signal, graceMs: 5, undoTimeoutMs: 50 };
      const outcome = createSnapshot(host, scene.request, limits).then(
        () => 'ended',
        () => 'failed',
      );
      const late = sleep(SOON_MS, 'late', { ref: false });
      const ended = await Promise.race([outcome, late]);
      expect(scene.held, where).toEqual([]);
      if (scene.stuck) return;
      expect(ended, where).not.toBe('late');
      expectGuestAsBefore(host, was, where);
      expect([host.locked, host.guarded.size], where).toEqual([false, 0]);
    });
  });

  it.runIf(kind.to === undefined)(
    'the guest resumes by itself when the storage hangs from any call on',
    async () => {
      await everywhere(kind, async (scene, at, where) => {
        const { host, was } = scene;
        const abort = new AbortController();
        let hangs = false;
        scene.hang(at, false, () => {
          hangs = true;
        });
        const limits = { signal: abort.signal, graceMs: 5, undoTimeoutMs: 50 };
        const outcome = createSnapshot(host, scene.request, limits).catch(() => {});
        // One create makes a few calls more than the other: how often a flush begins depends on how fast the disk is.
        await Promise.race([outcome, vi.waitUntil(() => hangs, { timeout: 2 * SOON_MS, interval: 2 })]);
        // Until it waits only for the storage.
        for (let calls = -1; calls < host.calls.length; await sleep(25)) calls = host.calls.length;
        expect(scene.held, where).toEqual([]);
        if (scene.stuck) return;
        expect([host.suspended, host.machineStopped, host.pauses], where).toEqual([false, false, was.pauses]);
        abort.abort();
        await outcome;
        expectGuestAsBefore(host, was, where);
      });
    },
  );
});
