import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SuspendError } from '../../../../src/core/errors.ts';
import { type Progress, silentReporter } from '../../../../src/core/reporter.ts';
import type { PrecopyLimits } from '../../../../src/snapshot/api.ts';
import { DirtyLog } from '../../../../src/snapshot/guest/dirty-log.ts';
import { FileSaver } from '../../../../src/snapshot/memory/file-saver.ts';
import { Precopy } from '../../../../src/snapshot/memory/precopy.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';

const PAGES = 2000;

let directory: string;
let fd: number;
let guest: FakeGuest;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-precopy-'));
  fd = openSync(join(directory, 'm'), 'w+');
  guest = new FakeGuest(new Uint8Array(PAGES));
});
afterEach(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

/** The number of pages that the guest has written each time the log is taken. */
function writesPerRound(...counts: readonly number[]): void {
  const take = guest.takeDirty.bind(guest);
  guest.takeDirty = async (pages) => {
    const count = counts[guest.taken] ?? counts.at(-1) ?? 0;
    for (let pfn = 0; pfn < count; pfn++) guest.write(pfn, guest.taken);
    return await take(pages);
  };
}

async function run(limits: Partial<PrecopyLimits> = {}, told: Progress[] = []): Promise<Precopy> {
  const output = {
    fd,
    writeAt: async (bytes: Uint8Array, position: number) => {
      writeSync(fd, bytes, 0, bytes.length, position);
    },
    noteWrite: () => {},
    written: async () => {},
    mayWrite: async () => {},
    beginSync: () => {},
  };
  const saver = new FileSaver(guest, output, 4096, { expectedPages: PAGES });
  const log = new DirtyLog(guest, undefined);
  const reporter = { ...silentReporter, progress: (progress: Progress) => told.push(progress) };
  const precopy = new Precopy(saver, log, guest.p2mSize, { maxRounds: 5, ...limits }, { reporter });
  await log.start();
  await precopy.run();
  return precopy;
}

function dirtyAfter(precopy: Precopy): number[] {
  return precopy.rounds.map((round) => round.dirtyAfter);
}

describe('the rounds end', () => {
  test('when few pages are left', async () => {
    writesPerRound(1000, 300, 49);
    expect(dirtyAfter(await run())).toEqual([1000, 300, 49]);
  });

  test('when they no longer get better', async () => {
    writesPerRound(1000, 300, 290);
    expect(dirtyAfter(await run())).toEqual([1000, 300, 290]);
  });

  test('at their limit', async () => {
    writesPerRound(1000, 800, 600, 400, 300, 200);
    expect(dirtyAfter(await run())).toEqual([1000, 800, 600, 400, 300]);
    expect(dirtyAfter(await run({ maxRounds: 1 }))).toHaveLength(1);
  });

  test('not when the log was lost: then they start over', async () => {
    writesPerRound(1000, 300, 900, 200, 40);
    const take = guest.takeDirty;
    guest.takeDirty = (pages) => {
      guest.logLost = guest.taken === 1;
      return take(pages);
    };
    expect(dirtyAfter(await run({ maxRounds: 4 }))).toEqual([1000, PAGES, 900, 200, 40]);
  });

  test('with an error when the log is lost again and again', async () => {
    const take = guest.takeDirty.bind(guest);
    guest.takeDirty = (pages) => {
      guest.logLost = true;
      return take(pages);
    };
    await expect(run()).rejects.toMatchObject({ code: 'DIRTY_LOG_LOST', exitCode: 4 });
    expect(guest.taken).toBe(3);
  });

  test('when the guest would be stopped for no longer than the target', async () => {
    writesPerRound(1000);
    expect(dirtyAfter(await run({ targetDowntimeMs: 60_000 }))).toEqual([1000]);
  });

  test('and then the rest is copied', async () => {
    writesPerRound(1000, 40);
    const precopy = await run();
    await precopy.finish();
    expect(precopy.rounds.map(({ pages, dirtyAfter }) => [pages, dirtyAfter])).toEqual([
      [PAGES, 1000],
      [1000, 40],
      [40, 0],
    ]);
  });
});

test('a create gives up if it would take too long, with the numbers', async () => {
  writesPerRound(1000, 999);
  guest.beforeCopy = () => new Promise((resolve) => setTimeout(resolve, 2));
  const error = await run({ maxDowntimeMs: 0.1 }).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(SuspendError);
  expect(error).toMatchObject({
    code: 'DOWNTIME_LIMIT',
    data: { dirtyPages: 999, maxDowntimeMs: 0.1, rounds: [{ pages: PAGES }, { pages: 1000 }] },
  });
  expect((error as SuspendError).data['estimatedDowntimeMs']).toBeGreaterThan(0.1);
});

test('pages that could not be copied are not forgotten', async () => {
  guest.beforeCopy = async (pfns) => {
    if (pfns.includes(7) && guest.taken === 0) guest.setType(7, 15);
  };
  const precopy = await run();
  guest.setType(7, 0);
  await precopy.finish();
  expect(precopy.rounds.at(-1)?.pages).toBe(1);
});

test('each round is reported', async () => {
  writesPerRound(1000, 40);
  const told: Progress[] = [];
  await (await run({}, told)).finish();
  const rounds = told.filter(({ dirtyPages }) => dirtyPages !== undefined);
  expect(rounds.map(({ phase, round, dirtyPages }) => [phase, round, dirtyPages])).toEqual([
    ['precopy', 0, 1000],
    ['precopy', 1, 40],
    ['memory', 2, 0],
  ]);
});
