/** A snapshot that is to be deleted, with what it is looked at with. */
import type { Problem } from '../../core/problem.ts';
import type { FoundManifest } from '../../memfile/find-manifests.ts';
import { imageOf, type Manifest, type SnapshotDisk } from '../../memfile/manifest.ts';
import { truePath } from '../images/chain.ts';
import type { Host } from '../ports.ts';
import type { DoomedOverlay, DoomedSnapshot, DoomedTag } from './journal.ts';
import type { Merged } from './users.ts';

/** What is to go of its disks' snapshots. */
export interface DoomedDisks {
  readonly tags: DoomedTag[];
  readonly overlays: DoomedOverlay[];
  readonly snapshots: DoomedSnapshot[];
}

/** What a snapshot that is to be deleted is looked at with. */
export interface Surroundings {
  /** The snapshots that stay; they may need what this one has. */
  readonly others: readonly FoundManifest[];
  /** The names and uuids that are locked. */
  readonly keys: readonly string[];
  /** Whether overlays are merged into their bases. */
  readonly merge: boolean;
  /** Those that will have been deleted by then, and are still there. */
  readonly before: readonly { readonly doomed: DoomedDisks }[];
}

/** A snapshot with what it is looked at with. */
export interface Subject extends Surroundings {
  readonly host: Host;
  readonly manifest: Manifest;
  readonly merged: Merged;
  /** Why it cannot be deleted; whoever looks at a disk adds to it, and to what is to go. */
  readonly problems: Problem[];
  readonly doomed: DoomedDisks;
}

/** Begins to look at a snapshot. */
export async function subjectOf(
  host: Host,
  manifest: Manifest,
  surroundings: Surroundings,
  problems: Problem[],
): Promise<Subject> {
  const doomed = { tags: [], overlays: [], snapshots: [] };
  const merged = await mergedBy(surroundings.before);
  return { ...surroundings, host, manifest, merged, problems, doomed };
}

async function mergedBy(before: Surroundings['before']): Promise<Merged> {
  const merged = before.flatMap(({ doomed }) => doomed.overlays);
  return new Map(
    await Promise.all(
      merged.map(
        async ({ overlay, base, baseFormat }) =>
          [await truePath(overlay), { path: base, format: baseFormat }] as const,
      ),
    ),
  );
}

/** A disk of another snapshot. */
interface OtherDisk extends FoundManifest {
  readonly disk: SnapshotDisk;
}

/** Disks of other snapshots that need an image: as the place of their tag, or as their base. */
export async function disksOn(
  others: readonly FoundManifest[],
  image: string,
  kind: SnapshotDisk['kind'],
): Promise<readonly OtherDisk[]> {
  const wanted = await truePath(image);
  const found: OtherDisk[] = [];
  for (const other of others) {
    for (const disk of other.manifest.disks) {
      if (disk.kind !== kind) continue;
      if ((await truePath(imageOf(disk))) === wanted) found.push({ ...other, disk });
    }
  }
  return found;
}

export function identityOf({ identities = [] }: Manifest, vdev: string): DoomedTag['identity'] {
  return identities.find((one) => one.vdev === vdev)?.tag;
}
