/** Finds later snapshots that depend on an image which a revert changes, by their manifests. */
import { dirname } from 'node:path';
import { type FoundManifest, findManifests } from '../../memfile/find-manifests.ts';
import type { RevertDisk } from '../api.ts';
import { truePath } from '../images/chain.ts';
import { isBaseLost } from '../images/identity.ts';
import { snapshotDirOf } from '../naming.ts';
import type { ImageHost } from '../ports.ts';
import type { Risk } from '../risks.ts';

/** A snapshot by its manifest. */
export type KnownSnapshot = FoundManifest;

/**
 * Finds snapshots other than the one reverted to whose base is an image that the revert replaces or writes to.
 * @param memoryPath of the snapshot reverted to; the others are looked for beside it and where the host has them
 * @param known the others, if they have been found before
 */
export async function findLaterSnapshots(
  host: ImageHost,
  memoryPath: string,
  disks: readonly RevertDisk[],
  known?: readonly KnownSnapshot[],
): Promise<readonly Risk[]> {
  if (disks.length === 0) return [];
  const changes = disks.flatMap((disk) => {
    const path = disk.kind === 'external' ? disk.replaced : disk.image;
    return path === undefined ? [] : [{ vdev: disk.vdev, path }];
  });
  const changed = await Promise.all(
    changes.map(async (change) => ({ ...change, real: await truePath(change.path) })),
  );
  const risks: Risk[] = [];
  for (const { memoryPath: path, manifest } of known ?? (await knownSnapshots(host, memoryPath))) {
    for (const later of manifest.disks) {
      if (later.kind !== 'external') continue;
      const base = await truePath(later.base);
      const disk = changed.find(({ real }) => real === base);
      if (disk === undefined || (await isBaseLost(manifest, later))) continue;
      risks.push({
        risk: 'later-snapshot',
        message: `disk ${disk.vdev}: the snapshot "${manifest.name}" (${path}) depends on ${disk.path} and would be lost`,
        vdev: disk.vdev,
      });
    }
  }
  return risks;
}

async function knownSnapshots(host: ImageHost, memoryPath: string): Promise<readonly KnownSnapshot[]> {
  const top = snapshotDirOf(host);
  const { found } = await findManifests([dirname(memoryPath), top], [top]);
  return found.filter((snapshot) => snapshot.memoryPath !== memoryPath);
}
