/** How what disks have of a snapshot goes: a file for each kind, and nothing else in a delete knows kinds. */
import type { SnapshotDisk } from '../../memfile/manifest.ts';
import type { Host } from '../ports.ts';
import type { DeleteAction, DeleteRun } from './action.ts';
import type { DeleteHead } from './journal.ts';
import { examineOverlay, overlayAction } from './overlays.ts';
import { examineStored, isStoredThere, storedAction } from './stored.ts';
import type { Subject } from './subject.ts';
import { examineTag, isTagThere, tagAction } from './tags.ts';
import type { DeleteDisk } from './types.ts';

/** Looks at one disk of a snapshot. Changes nothing. */
export async function examineDisk(subject: Subject, disk: SnapshotDisk): Promise<DeleteDisk> {
  switch (disk.kind) {
    case 'internal':
      return await examineTag(subject, disk);
    case 'external':
      return await examineOverlay(subject, disk);
    case 'storage':
      return await examineStored(subject, disk);
  }
}

/** The steps that disks take, in their order. */
export function diskActions(
  host: Host,
  { keys, tags, overlays, snapshots }: DeleteHead,
  run: DeleteRun,
): readonly DeleteAction[] {
  return [
    ...tags.map((tag) => tagAction(host, tag, keys)),
    ...overlays.map((overlay) => overlayAction(host, overlay, run)),
    ...snapshots.map((snapshot) => storedAction(host, snapshot)),
  ];
}

/** Tells whether the disks still have all that is to go. */
export async function areDisksThere(host: Host, { tags, snapshots }: DeleteHead): Promise<boolean> {
  for (const tag of tags) if (!(await isTagThere(host, tag))) return false;
  for (const snapshot of snapshots) if (!(await isStoredThere(host, snapshot))) return false;
  return true;
}
