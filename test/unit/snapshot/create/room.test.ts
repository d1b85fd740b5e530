import { rmSync } from 'node:fs';
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { planCreate } from '../../../../src/snapshot/create/create.ts';
import { sampleData } from '../../../../src/snapshot/create/room.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';
import { FakeHost } from '../../../../src/testing/fake-host.ts';
import { failure, fastDirectory } from '../../../support/scene.ts';

let free = 0;
const { statfs } = fs;
// Not by a mock: other test files may have loaded the importing module already.
function pretend(how: unknown): void {
  Object.assign(fs, { statfs: how });
  syncBuiltinESMExports();
}
beforeAll(() => pretend(() => Promise.resolve({ bavail: free, bsize: 1 })));
afterAll(() => pretend(statfs));

let directory: string;
beforeEach(() => {
  directory = fastDirectory('xlsnap-room-');
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** 256 MiB, of which 64 are not zeros. */
function quarterFull(): FakeGuest {
  return new FakeGuest(new Uint8Array(65536), (pfn) => pfn % 4 !== 0);
}

const MIB = 2 ** 20;
const plan = () => {
  const host = new FakeHost({ directory, guest: quarterFull() });
  host.peeking = true;
  return planCreate(host, { domain: 'guest1', name: 's1', snapshotDir: `${directory}/s` });
};

describe('room for the memory file', () => {
  test('is estimated from the share of zeros, with bounds', async () => {
    const { least, most } = await sampleData(quarterFull());
    expect(least).toBeGreaterThan(0.15);
    expect(least).toBeLessThan(0.26);
    expect(most).toBeGreaterThan(0.24);
    expect(most).toBeLessThan(0.35);
  });

  test('may be any share of a guest that has no pages', async () => {
    expect(await sampleData(new FakeGuest(new Uint8Array(64).fill(15)))).toEqual({ least: 0, most: 1 });
  });

  test('is enough if all but the zeros fits', async () => {
    free = 150 * MIB;
    expect((await plan()).warnings).toEqual([]);
  });

  test('is refused if less is free', async () => {
    free = 40 * MIB;
    expect(await failure(plan())).toMatchObject({
      code: 'NO_ROOM',
      message: expect.stringContaining('not counting its pages of zeros'),
    });
  });

  test('causes a warning if it may just be enough', async () => {
    free = 80 * MIB;
    expect((await plan()).warnings).toEqual([expect.stringContaining('everything is undone')]);
  });
});
