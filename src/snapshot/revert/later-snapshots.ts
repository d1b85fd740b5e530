/** Finds what depends on an image that a revert changes: later snapshots, by their manifests, and overlays, by their headers. */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { exists } from '../../core/files.ts';
import { type FoundManifest, findManifests } from '../../memfile/find-manifests.ts';
import type { RevertDisk } from '../api.ts';
import { isSameImage, standsOn, truePath } from '../images/chain.ts';
import { isBaseLost } from '../images/identity.ts';
import { SUSPEND_MS } from '../images/idle-disk.ts';
import { overlaysOn } from '../images/overlays-on.ts';
import { snapshotDirOf } from '../naming.ts';
import type { ImageHost } from '../ports.ts';
import type { Risk } from '../risks.ts';

/** A snapshot by its manifest. */
export type KnownSnapshot = FoundManifest;

/** An image that a revert replaces or writes to. */
interface Change {
  readonly vdev: string;
  readonly path: string;
  readonly real: string;
}

/**
 * Finds snapshots other than the one reverted to whose base is an image that the revert replaces or writes to, and other
 * overlays on such an image, in the directories of the images and of the snapshots.
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
  const changes = await Promise.all(
    disks.flatMap((disk) => {
      const path = disk.kind === 'external' ? disk.replaced : disk.image;
      if (path === undefined) return [];
      return [truePath(path).then((real): Change => ({ vdev: disk.vdev, path, real }))];
    }),
  );
  const snapshots = known ?? (await knownSnapshots(host, memoryPath));
  const named = new Set<string>();
  const risks: Risk[] = [];
  for (const { memoryPath: path, manifest } of snapshots) {
    for (const later of manifest.disks) {
      if (later.kind !== 'external') continue;
      named.add(await truePath(later.overlay));
      const base = await truePath(later.base);
      const disk = changes.find(({ real }) => real === base);
      if (disk === undefined || (await isBaseLost(manifest, later))) continue;
      const whole = await exists(path);
      if (!whole && !(await exists(later.overlay))) continue;
      risks.push(
        laterRisk(
          disk,
          whole
            ? `the snapshot "${manifest.name}" (${path}) depends on ${disk.path} and would be lost`
            : `${later.overlay}, which the deleted snapshot "${manifest.name}" has left, depends on ${disk.path} and would be broken`,
        ),
      );
    }
  }
  const places = [
    memoryPath,
    ...snapshots.flatMap(pathsOf),
    ...changes.flatMap(({ path, real }) => [path, real]),
  ];
  for (const { path, base } of await overlaysOn(
    changes.map(({ real }) => real),
    places.map(dirname),
  )) {
    const disk = changes.find(({ real }) => real === base);
    if (disk === undefined || named.has(path) || (await isOutdated(path, base))) continue;
    risks.push(laterRisk(disk, `${path} depends on ${disk.path} and would be broken`));
  }
  return risks;
}

/**
 * Finds the domains that run on an overlay of an image that a revert puts back, for hosts whose domains are not known
 * otherwise.
 */
export async function findOverlaysInUse(
  host: ImageHost,
  disks: readonly RevertDisk[],
): Promise<readonly Risk[]> {
  const risks: Risk[] = [];
  const uses = (await host.imagesInUse?.()) ?? [];
  for (const disk of disks) {
    if (disk.kind === 'external') continue;
    for (const { path, format, holder } of uses) {
      if (format === undefined || (await isSameImage(path, disk.image))) continue;
      if (!(await standsOn(host.images, { path, format }, disk.image))) continue;
      risks.push(
        laterRisk(disk, `${path}, which ${holder} uses now, depends on ${disk.image} and would be broken`),
      );
    }
  }
  return risks;
}

function laterRisk({ vdev }: { readonly vdev: string }, what: string): Risk {
  return { risk: 'later-snapshot', message: `disk ${vdev}: ${what}`, vdev };
}

function pathsOf({ memoryPath, manifest }: KnownSnapshot): readonly string[] {
  return [memoryPath, ...manifest.disks.flatMap((disk) => (disk.kind === 'external' ? [disk.overlay] : []))];
}

/** Tells whether an overlay's base was written to after the overlay: it is of no use any more. */
async function isOutdated(overlay: string, base: string): Promise<boolean> {
  const [above, below] = await Promise.all([overlay, base].map((path) => stat(path).catch(() => undefined)));
  // The time of a device says nothing.
  if (above?.isFile() !== true || below?.isFile() !== true) return false;
  return below.mtimeMs > above.mtimeMs + SUSPEND_MS;
}

async function knownSnapshots(host: ImageHost, memoryPath: string): Promise<readonly KnownSnapshot[]> {
  const top = snapshotDirOf(host);
  const { found } = await findManifests([dirname(memoryPath), top], [top]);
  return found.filter((snapshot) => snapshot.memoryPath !== memoryPath);
}
