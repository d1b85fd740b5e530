/** Finds later snapshots that depend on an image which a revert changes, by their manifests. */
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoCode } from '../../core/errors.ts';
import { type Manifest, ManifestError, readManifest } from '../../memfile/manifest.ts';
import { manifestPathOf } from '../../memfile/names.ts';
import type { RevertDisk } from '../api.ts';
import { truePath } from '../images/chain.ts';
import { identifyFile, isSameFile } from '../images/identity.ts';
import { snapshotDirOf } from '../naming.ts';
import type { Host } from '../ports.ts';
import type { Risk } from '../risks.ts';

const ENDING = manifestPathOf('');

/** A snapshot by its manifest. */
interface KnownSnapshot {
  readonly memoryPath: string;
  readonly manifest: Manifest;
}

/**
 * Finds snapshots other than the one reverted to whose base is an image that the revert replaces or writes to.
 * @param memoryPath of the snapshot reverted to; the others are looked for beside it and where the host has them
 */
export async function findLaterSnapshots(
  host: Host,
  memoryPath: string,
  disks: readonly RevertDisk[],
): Promise<readonly Risk[]> {
  if (disks.length === 0) return [];
  const changes = disks.flatMap((disk) => {
    const path = disk.kind === 'internal' ? disk.image : disk.replaced;
    return path === undefined ? [] : [{ vdev: disk.vdev, path }];
  });
  const changed = await Promise.all(
    changes.map(async (change) => ({ ...change, real: await truePath(change.path) })),
  );
  const risks: Risk[] = [];
  for (const { memoryPath: path, manifest } of await knownSnapshots(host, memoryPath)) {
    for (const later of manifest.disks) {
      if (later.kind !== 'external') continue;
      const base = await truePath(later.base);
      const disk = changed.find(({ real }) => real === base);
      if (disk === undefined || (await isLost(manifest, later.vdev, base))) continue;
      risks.push({
        risk: 'later-snapshot',
        message: `disk ${disk.vdev}: the snapshot "${manifest.name}" (${path}) depends on ${disk.path} and would be lost`,
        vdev: disk.vdev,
      });
    }
  }
  return risks;
}

/** Tells whether its base has already been replaced or written to. */
async function isLost({ identities = [] }: Manifest, vdev: string, base: string): Promise<boolean> {
  const then = identities.find((identity) => identity.vdev === vdev)?.base;
  const now = await identifyFile(base).catch(() => undefined);
  return then !== undefined && now !== undefined && !isSameFile(then, now);
}

async function knownSnapshots(host: Host, memoryPath: string): Promise<readonly KnownSnapshot[]> {
  const top = snapshotDirOf(host);
  const below = (await entriesOf(top))
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => join(top, name));
  const found: KnownSnapshot[] = [];
  for (const directory of new Set([dirname(memoryPath), top, ...below])) {
    for (const { name } of await entriesOf(directory)) {
      const path = join(directory, name.slice(0, -ENDING.length));
      if (!name.endsWith(ENDING) || path === memoryPath) continue;
      const manifest = await readOther(manifestPathOf(path));
      if (manifest !== undefined) found.push({ memoryPath: path, manifest });
    }
  }
  return found;
}

async function entriesOf(directory: string) {
  return await readdir(directory, { withFileTypes: true }).catch((error: unknown) => {
    if (['ENOENT', 'ENOTDIR'].includes(errnoCode(error) ?? '')) return [];
    throw error;
  });
}

/** Reads another snapshot's manifest; one that cannot be read does not concern this revert. */
async function readOther(path: string): Promise<Manifest | undefined> {
  try {
    return await readManifest(path);
  } catch (error) {
    if (error instanceof ManifestError) return undefined;
    throw error;
  }
}
