/**
 * What the tests of create, revert and recover share: snapshots of a fake host, and what must hold
 * afterwards.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { SnapshotConfig } from '../../src/config/config.ts';
import { parseConfig } from '../../src/config/parse.ts';
import { XlsnapError } from '../../src/core/errors.ts';
import { omitUndefined } from '../../src/core/omit-undefined.ts';
import { configDisks } from '../../src/memfile/libxl-config.ts';
import type { FakeHost, FakeOptions } from '../../src/testing/fake-host.ts';
import { planted } from './fault-share.ts';

export type DiskKind = 'internal' | 'external' | 'clone' | 'thin' | 'thick';

/** A kind of create, for the tests that plant faults in every kind. */
export interface CreateKind {
  readonly type: 'pvh' | 'hvm' | 'pv';
  readonly paused: boolean;
  readonly live: boolean;
  readonly disks: readonly DiskKind[];
  /** Where the memory goes. Default: a file. */
  readonly to?: 'a sink' | 'a FIFO';
}

/**
 * A directory for many small files, in memory if the system has such a place: tests do not wait for disks.
 */
export function fastDirectory(prefix: string): string {
  return mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), prefix));
}

/** A cfgfile for a snapshot of xvda, xvdb, … in these ways, all files in `directory`. */
export function snapshotConfig(name: string, directory: string, kinds: readonly DiskKind[]): SnapshotConfig {
  const disks = kinds.map((kind, i) => entryOf(kind, `xvd${'ab'[i]}`, `${directory}/${name}`));
  return parseConfig(`name="${name}"\nmemory_path="${directory}/${name}.save"\ndisks=[${disks}]`, 'snap.cfg');
}

function entryOf(kind: DiskKind, vdev: string, path: string): string {
  switch (kind) {
    case 'internal':
    case 'thin':
    case 'thick':
      return `',,${vdev}'`;
    case 'external':
      return `'${path}-${vdev}.qcow2,qcow2,${vdev}'`;
    case 'clone':
      return `'${path}-${vdev}.raw,raw,${vdev}'`;
  }
}

/** Disks xvda, xvdb, … of a fake host on which such snapshots can be taken. */
export function fakeDisks(kinds: readonly DiskKind[]): NonNullable<FakeOptions['disks']> {
  const on = {
    clone: 'file',
    thin: 'thin',
    thick: 'linear',
    internal: undefined,
    external: undefined,
  } as const;
  return kinds.map((kind, i) => omitUndefined({ vdev: `xvd${'ab'[i]}`, on: on[kind] }));
}

/** Runs `body` for each fault that this run plants, a few at once: while one waits, another has the processor. */
export async function forEachFault<T>(
  faults: Iterable<T>,
  body: (item: T) => Promise<void>,
  lanes = 4,
): Promise<void> {
  const left = planted(faults).values();
  const lane = async (): Promise<void> => {
    for (const item of left) await body(item);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

/** Returns the error that a promise rejects with, which must be one of ours. */
export async function failure(promise: Promise<unknown>): Promise<XlsnapError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof XlsnapError) return error;
    throw error;
  }
  throw new Error('did not fail');
}

/** Writes to some pages, as the guest, whenever something is done while it runs. */
export function keepWriting(host: FakeHost, call: string, pages = 60): void {
  if (host.suspended || !/^(pageTypes|packPages|readPages|takeDirty|suspend)$/.test(call)) return;
  for (let pfn = 0; pfn < pages; pfn++) host.guest.write(pfn, host.calls.length);
}

/** Something ended before the call in which its process was to be killed. */
export class EndedEarly extends Error {}

/**
 * Begins something whose process is killed in a port call, before or after the call takes effect.
 * @param which the number of the call, or its name
 * @returns a function that ends what the dead process still waits for; the host is unusable then
 */
export async function killed(
  host: FakeHost,
  when: 'before' | 'after',
  which: number | string,
  begin: () => Promise<unknown>,
): Promise<() => Promise<void>> {
  let release = (): void => {};
  let dead: Promise<unknown> = Promise.resolve();
  await new Promise<void>((resolve, reject) => {
    let count = 0;
    const act = (name: string): void | Promise<void> => {
      if (which !== name && which !== count++) return;
      resolve();
      return new Promise<never>((_, stop) => {
        release = () => stop(new Error('gone'));
      });
    };
    host.fault = when === 'before' ? act : () => {};
    host.after = when === 'after' ? act : () => {};
    dead = begin().then(
      () => reject(new EndedEarly(`it ended before ${which}, after ${host.calls.join(', ')}`)),
      (error: unknown) => reject(error as Error),
    );
  });
  host.fault = () => {};
  host.after = () => {};
  // As the kernel does.
  host.locked = false;
  host.guarded.clear();
  return async () => {
    host.dead = true;
    release();
    await dead;
  };
}

/** Every file below a directory with its content: images, tags, leftovers. */
export function filesOf(directory: string): Record<string, string> {
  const names = readdirSync(directory, { recursive: true, withFileTypes: true });
  return Object.fromEntries(
    names
      .map((entry) => [
        join(entry.parentPath, entry.name),
        entry.isDirectory() ? '' : readFileSync(join(entry.parentPath, entry.name), 'latin1'),
      ])
      .sort(([a = ''], [b = '']) => (a < b ? -1 : 1)),
  );
}

/** The names in a directory, sorted. */
export function filesIn(directory: string): readonly string[] {
  return readdirSync(directory).sort();
}

/** Returns the visible state of the guest and its disks. */
export interface Before {
  readonly files: Record<string, string>;
  readonly pauses: number;
}

export function before(host: FakeHost): Before {
  return { files: filesOf(host.directory), pauses: host.pauses };
}

/** The guarantee's first part: the guest is as it was. */
export function expectGuestAsBefore(host: FakeHost, { pauses }: Before, where = ''): void {
  expect(
    {
      pauses: host.pauses,
      suspended: host.suspended,
      machineStopped: host.machineStopped,
      logging: host.guest.logging,
      machineLogs: host.machineLogs,
      unannounced: host.unannounced,
    },
    where,
  ).toEqual({
    pauses,
    suspended: false,
    machineStopped: false,
    logging: false,
    machineLogs: false,
    unannounced: false,
  });
}

/**
 * Checks the whole guarantee of a create that failed: the guest, its disks, what names them, and all files
 * are as before.
 */
export function expectAsBefore(host: FakeHost, was: Before, where = ''): void {
  expectGuestAsBefore(host, was, where);
  expect(filesOf(host.directory), where).toEqual(was.files);
  expect(
    configDisks(host.config).map((disk) => disk.path),
    where,
  ).toEqual([...host.inUse.values()]);
  expect({ locked: host.locked, guarded: [...host.guarded] }, where).toEqual({ locked: false, guarded: [] });
}
