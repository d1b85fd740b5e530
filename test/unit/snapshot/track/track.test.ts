/** Tests snapshots that copy only what was written since the one before. */
import { copyFileSync, existsSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { verifyFile } from '../../../../src/memfile/verify.ts';
import type { CreateRequest, CreateResult } from '../../../../src/snapshot/api.ts';
import { createSnapshot, planCreate } from '../../../../src/snapshot/create/create.ts';
import { recoverAll } from '../../../../src/snapshot/recover.ts';
import { stopTracking } from '../../../../src/snapshot/track/off.ts';
import { readTrack, writeTrack } from '../../../../src/snapshot/track/record.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';
import { FAKE_UUID, FakeHost, type FakeOptions } from '../../../../src/testing/fake-host.ts';
import { failure, fastDirectory, keepWriting, killed } from '../../../support/scene.ts';
import { expectMemory } from '../../../support/track.ts';

const XTAB = 15;

let directory: string;
let host: FakeHost;
beforeEach(() => {
  directory = fastDirectory('xlsnap-track-');
  host = makeHost();
});
afterEach(() => rmSync(directory, { recursive: true }));

/** A guest of 3000 pages, in three full records and a part of one, with a hole. */
function makeHost(options: Partial<FakeOptions> = {}): FakeHost {
  const types = new Uint8Array(4000).fill(XTAB, 1000, 1032).fill(XTAB, 3032);
  return new FakeHost({ directory, guest: new FakeGuest(types), ...options });
}

function request(name: string, more: Partial<CreateRequest> = {}): CreateRequest {
  return { domain: 'guest1', name, snapshotDir: directory, live: true, track: true, sync: false, ...more };
}

async function create(name: string, more: Partial<CreateRequest> = {}): Promise<CreateResult> {
  const result = await createSnapshot(host, request(name, more));
  await expectMemory(result.plan.memoryPath, host.guest);
  return result;
}

/** Flips a bit as a failing disk does: nothing else shows that the file has changed. */
function spoil(path: string, at: number): void {
  const file = readFileSync(path);
  file[at] = (file[at] ?? 0) ^ 1;
  writeFileSync(path, file);
  const track = readTrack(host, FAKE_UUID);
  if (track === undefined) throw new Error('not tracked');
  writeTrack(host, { ...track, parent: { ...track.parent, mtimeMs: statSync(path).mtimeMs } });
}

const isTracked = (): boolean => readTrack(host, FAKE_UUID) !== undefined;

describe('a tracked guest', () => {
  it.each(['pvh', 'hvm'] as const)(
    'of type %s gets snapshots of what it has written since the one before',
    async (type) => {
      host = makeHost({ type });
      const first = await create('s1');
      expect(first).toMatchObject({ tracked: { full: 'NOT_TRACKED' }, tracking: true, warnings: [] });
      expect({ logs: host.guest.logging, machine: host.machineLogs }).toEqual({
        logs: true,
        machine: type === 'hvm',
      });
      let parent = first.plan.memoryPath;
      for (let generation = 2; generation < 7; generation++) {
        for (let pfn = generation; pfn < 3032; pfn += 100 * generation) host.guest.write(pfn, generation);
        host.guest.calls.read.length = 0;
        host.guest.calls.packed.length = 0;
        const next = await create(`s${generation}`);
        expect(next).toMatchObject({ tracked: { parent }, tracking: true, pages: first.pages });
        const read = host.guest.calls.read.reduce((sum, { length }) => sum + length, 0);
        expect(read).toBeLessThan(100);
        parent = next.plan.memoryPath;
      }
      expect(host.harm).toEqual([]);
    },
  );

  it('may write all the time', async () => {
    host.fault = (call) => keepWriting(host, call);
    await create('s1');
    for (const name of ['s2', 's3', 's4'])
      expect(await create(name)).toMatchObject({ tracked: { pages: expect.any(Number) } });
  });

  it('may get memory and give it away', async () => {
    await create('s1');
    host.guest.setType(1000, 0);
    host.guest.setType(2999, XTAB);
    host.guest.write(1000, 5);
    expect(await create('s2')).toMatchObject({ tracked: { parent: expect.any(String) } });
    // Xen 4.22 does not count a page that is given away as written.
    host.guest.loseSilently(2500);
    expect(await create('s3')).toMatchObject({ tracked: { full: 'PARENT_LAYOUT' } });
    host.guest.loseSilently(2501);
    expect(await create('s4')).toMatchObject({ tracked: { parent: expect.any(String) } });
  });

  it('needs neither the parent nor the child for the other', async () => {
    const first = await create('s1');
    host.guest.write(7, 7);
    const second = await create('s2');
    rmSync(first.plan.memoryPath);
    await expectMemory(second.plan.memoryPath, host.guest);
    const third = await create('s3');
    rmSync(third.plan.memoryPath);
    await verifyFile(second.plan.memoryPath);
    expect(statSync(second.plan.memoryPath).mode & 0o777).toBe(0o600);
  });

  it('has damage found in whatever generation', async () => {
    const first = await create('s1');
    const { size } = statSync(first.plan.memoryPath);
    // The second record, which the guest does not write to.
    spoil(first.plan.memoryPath, Math.floor(size / 2));
    host.guest.write(7, 7);
    const second = await createSnapshot(host, request('s2'));
    expect(second).toMatchObject({ tracked: { parent: first.plan.memoryPath } });
    expect((await failure(verifyFile(second.plan.memoryPath))).code).toBe('DAMAGED');
  });

  it('gets no good checksum for a damaged part that it has written to', async () => {
    const first = await create('s1');
    const { memoryPath } = first.plan;
    // Page 8, beside page 7.
    spoil(memoryPath, readFileSync(memoryPath).indexOf(Buffer.from(host.guest.page(8))));
    host.guest.write(7, 7);
    const error = await failure(createSnapshot(host, request('s2')));
    expect(error).toMatchObject({ code: 'PARENT_DAMAGED', undoFailures: [] });
    expect({ tracked: isTracked(), logs: host.guest.logging }).toEqual({ tracked: false, logs: false });
    expect(await create('s2')).toMatchObject({ tracked: { full: 'NOT_TRACKED' } });
  });
});

describe('all memory is copied, with the reason,', () => {
  it.each([
    ['a save that ended well', 'LOG_BROKEN', () => host.guest.foreignSave()],
    [
      'a migration that failed and left the log on',
      'LOG_BROKEN',
      () => host.guest.foreignSave({ killed: true }),
    ],
    ['a reboot', 'OTHER_LIFE', () => host.reboot()],
    ['the parent was deleted', 'PARENT_GONE', (path: string) => rmSync(path)],
    ['the parent was written to', 'PARENT_CHANGED', (path: string) => utimesSync(path, 1, 1)],
    [
      'the parent was replaced',
      'PARENT_CHANGED',
      (path: string) => {
        const { atime, mtime } = statSync(path);
        copyFileSync(path, `${path}.copy`);
        rmSync(path);
        copyFileSync(`${path}.copy`, path);
        utimesSync(path, atime, mtime);
      },
    ],
    ['its manifest has no checksums', 'PARENT_CHANGED', (path: string) => rmSync(`${path}.json`)],
    ['the file system has no reflinks', 'NOT_CLONED', () => Object.assign(host, { cloneFails: true })],
  ] as const)('after %s', async (_what, full, act) => {
    const first = await create('s1');
    // What the log loses.
    host.guest.write(3, 33);
    act(first.plan.memoryPath);
    host.guest.write(4, 44);
    const second = await create('s2');
    expect(second).toMatchObject({ tracked: { full, message: expect.any(String) }, tracking: true });
    host.cloneFails = false;
    host.guest.write(5, 55);
    expect(await create('s3')).toMatchObject({ tracked: { parent: second.plan.memoryPath } });
  });

  it('if another program takes the log right before it is taken', async () => {
    await create('s1');
    host.guest.write(3, 33);
    host.fault = (call) => {
      if (call !== 'takeDirty') return;
      host.guest.foreignSave({ killed: true });
      host.fault = () => {};
    };
    expect(await create('s2')).toMatchObject({ tracked: { full: 'LOG_BROKEN' }, tracking: true });
  });

  it('with track: false', async () => {
    await create('s1');
    const second = await create('s2', { track: false });
    expect(second.tracked).toBeUndefined();
    expect(second.tracking).toBe(false);
    expect({ tracked: isTracked(), logs: host.guest.logging }).toEqual({ tracked: false, logs: false });
  });
});

describe('tracking', () => {
  it('ends with a live snapshot that does not ask for it, which still needs to copy little', async () => {
    const first = await create('s1');
    const second = await create('s2', { track: undefined });
    expect(second).toMatchObject({ tracked: { parent: first.plan.memoryPath }, tracking: false });
    expect({ tracked: isTracked(), logs: host.guest.logging }).toEqual({ tracked: false, logs: false });
    const third = await create('s3', { track: undefined });
    expect([third.tracked, third.tracking]).toEqual([undefined, undefined]);
  });

  it('continues beside a snapshot of the stopped guest', async () => {
    const first = await create('s1');
    host.guest.write(3, 3);
    const between = await createSnapshot(host, request('s2', { live: false, track: undefined }));
    expect(between.tracking).toBeUndefined();
    host.guest.write(4, 4);
    expect(await create('s3')).toMatchObject({ tracked: { parent: first.plan.memoryPath } });
  });

  it.each(['pvh', 'hvm'] as const)(
    'of a %s guest is ended by stopTracking, any number of times',
    async (type) => {
      host = makeHost({ type });
      await create('s1');
      expect(await stopTracking(host, 'guest1')).toMatchObject({ domain: 'guest1', domid: 7, tracked: true });
      expect({ logs: host.guest.logging, machine: host.machineLogs }).toEqual({
        logs: false,
        machine: false,
      });
      expect(await stopTracking(host, 'guest1')).toMatchObject({ tracked: false });
      expect(host.harm).toEqual([]);
      expect(await create('s2')).toMatchObject({ tracked: { full: 'NOT_TRACKED' } });
    },
  );

  it('is not ended while another program saves the domain', async () => {
    await create('s1');
    host.saver = 99;
    expect(await failure(stopTracking(host, 'guest1'))).toMatchObject({ code: 'BEING_SAVED' });
    expect(host.guest.logging).toBe(true);
  });

  it('is not begun, and a warning says so beforehand, where there are no reflinks, and for PV guests', async () => {
    host.reflinkObstacle = 'the file system of /x has no reflinks';
    const plan = await planCreate(host, request('s1'));
    expect(plan).toMatchObject({ tracking: false, warnings: [expect.stringContaining('has no reflinks')] });
    expect(await create('s1')).toMatchObject({ warnings: plan.warnings });
    expect({ tracked: isTracked(), logs: host.guest.logging }).toEqual({ tracked: false, logs: false });
    const pv = makeHost({ type: 'pv' });
    expect(await planCreate(pv, request('s2'))).toMatchObject({
      tracking: false,
      warnings: [expect.stringContaining('PV')],
    });
  });

  it.each([
    ['TRACK_LIVE', { live: false }],
    ['TRACK_STREAM', { sink: async () => {} }],
  ] as const)('is refused with %s', async (code, more) => {
    expect(await failure(planCreate(host, request('s1', more)))).toMatchObject({ code, exitCode: 2 });
  });

  it('ends if a stream takes the log', async () => {
    await create('s1');
    const result = await createSnapshot(host, request('s2', { track: undefined, sink: async () => {} }));
    expect(result).toMatchObject({ tracking: false });
    expect({ tracked: isTracked(), logs: host.guest.logging }).toEqual({ tracked: false, logs: false });
  });

  it('ends with a warning if a program takes the log over as the snapshot ends', async () => {
    host.fault = (call) => {
      if (call === 'peekDirty') host.guest.foreignSave();
    };
    const result = await createSnapshot(host, request('s1'));
    expect(result).toMatchObject({ tracking: false, warnings: [expect.stringContaining('not tracked')] });
    expect(isTracked()).toBe(false);
  });

  it('is over after recover, and no other snapshot is touched', async () => {
    const first = await create('s1');
    host.guest.write(3, 3);
    const end = await killed(host, 'after', 'suspend', () => createSnapshot(host, request('s2')));
    await recoverAll(host, directory);
    expect({ tracked: isTracked(), logs: host.guest.logging, runs: host.runs }).toEqual({
      tracked: false,
      logs: false,
      runs: true,
    });
    await verifyFile(first.plan.memoryPath);
    expect(existsSync(first.plan.memoryPath)).toBe(true);
    await end();
  });
});
