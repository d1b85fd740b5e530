import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { OutputError } from '../../../../src/core/errors.ts';
import { readMemoryFacts, verifyFile } from '../../../../src/memfile/verify.ts';
import type { CreateRequest } from '../../../../src/snapshot/api.ts';
import { createSnapshot, planCreate } from '../../../../src/snapshot/create/create.ts';
import { Journal } from '../../../../src/snapshot/journal/file.ts';
import { FakeHost, readImage } from '../../../../src/testing/fake-host.ts';
import { filesIn } from '../../../support/scene.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-stream-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

const kinds = [
  ['pvh', false],
  ['hvm', false],
  ['pvh', true],
  ['hvm', true],
] as const;

function hostOf(type: 'pvh' | 'hvm', live: boolean): FakeHost {
  const host = new FakeHost({ directory, type });
  host.fault = (call) => {
    if (!live || host.suspended || !/^(readPages|takeDirty|suspend)$/.test(call)) return;
    for (let pfn = 0; pfn < 60; pfn++) host.guest.write(pfn, host.calls.length);
  };
  return host;
}

/** Collects what goes to a sink. */
function collector(): { sink: (bytes: Uint8Array) => Promise<void>; parts: Buffer[] } {
  const parts: Buffer[] = [];
  const sink = async (bytes: Uint8Array): Promise<void> => {
    parts.push(Buffer.from(bytes));
  };
  return { sink, parts };
}

function request(extra: Partial<CreateRequest>): CreateRequest {
  return { domain: 'guest1', name: 's1', snapshotDir: join(directory, 'snapshots'), ...extra };
}

describe.each(kinds)('a stream of a %s guest, live: %s', (type, live) => {
  test('is a save file, with nothing beside it', async () => {
    const host = hostOf(type, live);
    const { sink, parts } = collector();
    const result = await createSnapshot(host, request({ sink, live }));
    expect(result.plan).toMatchObject({ stream: true, memoryPath: '-' });
    expect(Object.keys(result.plan)).not.toContain('configPath');
    expect(filesIn(directory)).toEqual(['xvda.img']);
    expect(readImage(join(directory, 'xvda.img')).tags).toEqual({ s1: 'at start' });
    const file = join(directory, 'stream');
    writeFileSync(file, Buffer.concat(parts));
    expect(await readMemoryFacts(file)).toMatchObject({ config: host.config });
    const { bytes, pages } = await verifyFile(file);
    expect({ bytes, pages }).toEqual({ bytes: result.fileBytes, pages: result.pages });
    expect(result.pages > host.guest.memoryBytes / 4096).toBe(live);
    expect([host.runs, host.guest.logging]).toEqual([true, false]);
  });

  test('leaves the guest as it was if its reader goes away at any time', async () => {
    const { sink, parts } = collector();
    await createSnapshot(hostOf(type, live), request({ sink, live }));
    expect(parts.length).toBeGreaterThan(3);
    for (let at = 0; at < parts.length; at++) {
      const host = hostOf(type, live);
      let piece = 0;
      const broken = (): Promise<void> =>
        piece++ < at
          ? Promise.resolve()
          : Promise.reject(Object.assign(new Error('gone'), { code: 'EPIPE' }));
      const error: unknown = await createSnapshot(host, request({ sink: broken, live })).catch(
        (reason) => reason,
      );
      expect(error).toMatchObject({
        code: 'OUTPUT_WRITE',
        undone: expect.arrayContaining(['left the stream unfinished']),
        undoFailures: [],
      });
      expect([host.runs, host.guest.logging, host.machineLogs]).toEqual([true, false, false]);
      expect(readImage(join(directory, 'xvda.img')).tags).toEqual({});
      expect(filesIn(directory)).toEqual(['xvda.img']);
    }
  });
});

test('a reader that reads nothing while the guest is stopped does not keep it stopped, live', async () => {
  const host = hostOf('hvm', true);
  const { sink, parts } = collector();
  let stopped = 0;
  const lazy = async (bytes: Uint8Array): Promise<void> => {
    if (host.suspended) stopped++;
    await sink(bytes);
  };
  const result = await createSnapshot(host, request({ sink: lazy, live: true }));
  expect(stopped).toBe(0);
  expect(result).toMatchObject({ pagesWrittenStopped: 0, warnings: [] });
  // Two rounds at least, the last of which has pages.
  expect(result.rounds?.at(-1)?.pages).toBe(60);
  const file = join(directory, 'stream');
  writeFileSync(file, Buffer.concat(parts));
  await verifyFile(file);
});

test('what a live stream gets while the guest is stopped, for lack of memory, is a warning', async () => {
  const host = hostOf('pvh', true);
  host.spareMemory = () => 4096;
  const result = await createSnapshot(host, request({ sink: collector().sink, live: true }));
  expect(result.pagesWrittenStopped).toBe(60);
  expect(result.warnings).toEqual([expect.stringContaining('1 MiB of memory were written while')]);
});

test("a stream that its reader has completely is not undone if the journal's disk is full", async () => {
  const host = hostOf('pvh', false);
  const { sink, parts } = collector();
  const note = vi.spyOn(Journal.prototype, 'note');
  note.mockImplementation((line) => {
    if ('step' in line && line.step === 'whole') throw new OutputError('JOURNAL', 'ENOSPC');
  });
  try {
    await createSnapshot(host, request({ sink }));
  } finally {
    note.mockRestore();
  }
  const file = join(directory, 'stream');
  writeFileSync(file, Buffer.concat(parts));
  await verifyFile(file);
  expect(filesIn(directory)).toEqual(['stream', 'xvda.img']);
  expect(readImage(join(directory, 'xvda.img')).tags).toEqual({ s1: 'at start' });
});

test('cannot go to a sink and a memory_path at once', async () => {
  const { sink } = collector();
  const both = request({ sink, config: { memoryPath: '/x' } });
  await expect(planCreate(hostOf('pvh', false), both)).rejects.toMatchObject({ code: 'SINK' });
});

test('needs no free space and no new file when planned to standard output', async () => {
  const plan = await planCreate(hostOf('pvh', false), request({ config: { memoryPath: '/dev/stdout' } }));
  expect(plan).toMatchObject({ stream: true, memoryPath: '/dev/stdout' });
  expect(plan.manifestPath).toBeUndefined();
});
