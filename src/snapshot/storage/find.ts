/** Finds the storage of a disk. */
import type { StoreSize } from '../../config/config.ts';
import { EnvironmentError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { DomainDisk, ImageHost } from '../ports.ts';
import { Look } from './look.ts';
import type { DiskStorage } from './port.ts';

/** A disk's storage, and what prevents a snapshot there. */
export interface FoundStorage {
  readonly storage: DiskStorage;
  readonly problems: readonly Problem[];
}

/**
 * Returns the storage that has taken a snapshot.
 * @throws {EnvironmentError} If this host has none of that name (`NO_STORAGE`)
 */
export function storageOf({ storages = [] }: Pick<ImageHost, 'storages'>, disk: StorageDisk): DiskStorage {
  const found = storages.find(({ name }) => name === disk.storage);
  if (found !== undefined) return found;
  throw new EnvironmentError(
    'NO_STORAGE',
    `disk ${disk.vdev}: its snapshot is of a storage that this xlsnap does not know: ${disk.storage}`,
    { hint: 'use the program that took the snapshot' },
  );
}

/**
 * Finds the storage that a disk lies on, if it is one that can snapshot disks.
 * @throws what the storages throw
 */
export async function findStorage(
  { storages = [] }: Pick<ImageHost, 'storages'>,
  { vdev, place, writable, cdrom }: DomainDisk,
  look: Look,
): Promise<FoundStorage | undefined> {
  if (place === undefined || !writable || cdrom) return undefined;
  for (const storage of storages) {
    const problems = await storage.examine(vdev, place, look);
    if (problems !== undefined) return { storage, problems };
  }
  return undefined;
}

/** What prevents snapshots of a set of disks, or reverts to them, though each alone may be possible. Changes nothing. */
export async function sharedProblems(
  { storages = [] }: Pick<ImageHost, 'storages'>,
  disks: readonly StorageDisk[],
  what: 'create' | 'revert',
  look = new Look(),
): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  for (const storage of storages) {
    const own = disks.filter((disk) => disk.storage === storage.name);
    if (own.length > 0) problems.push(...((await storage.together?.(own, what, look)) ?? []));
  }
  return problems;
}

/** Says that `cow=` is of no use for a disk, if it is given. */
export function storeProblems(vdev: string, cow: StoreSize | undefined): readonly Problem[] {
  if (cow === undefined) return [];
  return [
    {
      code: 'COW_NOT_THICK',
      message: `disk ${vdev}: its snapshot needs no room of its own, which cow= gives`,
      hint: 'cow= is for thick volumes of LVM only: leave it out',
    },
  ];
}
