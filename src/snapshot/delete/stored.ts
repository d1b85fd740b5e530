/** Deletes what storages have of a snapshot. */
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import { howToRelease, refuseUsed, truePath, userOf } from '../images/chain.ts';
import type { Host } from '../ports.ts';
import { imagesOf } from '../revert/related.ts';
import { storageOf } from '../storage/find.ts';
import type { DeleteAction } from './action.ts';
import type { DoomedSnapshot } from './journal.ts';
import type { Subject } from './subject.ts';
import type { DeleteDisk } from './types.ts';

/** What a storage has is deleted by it, unless another snapshot or a program needs it. */
export async function examineStored(
  { host, manifest, others, problems, doomed: { snapshots } }: Subject,
  disk: StorageDisk,
): Promise<DeleteDisk> {
  const { vdev, snapshot } = disk;
  const identity = manifest.identities?.find((one) => one.vdev === vdev)?.snapshot;
  const found = await storageOf(host, disk).find(disk, identity);
  if (found === 'gone') return { ...disk, action: 'keep', reason: `${snapshot} no longer exists` };
  if (found === 'other') {
    return { ...disk, action: 'keep', reason: `${snapshot} is not, or no longer, the one that was taken` };
  }
  const user = await userOf(host, snapshot);
  if (user !== undefined) {
    problems.push({
      code: 'IMAGE_IN_USE',
      message: `disk ${vdev}: ${user.holder} uses ${user.path}${user.path === snapshot ? '' : `, which depends on ${snapshot}`}`,
      hint: `${howToRelease(user)} first`,
    });
  }
  const wanted = await truePath(snapshot);
  for (const other of others) {
    for (const path of imagesOf(other.manifest.disks)) {
      if ((await truePath(path)) !== wanted) continue;
      problems.push({
        code: 'SNAPSHOT_NEEDED',
        message: `disk ${vdev}: ${snapshot} also belongs to the snapshot ${other.memoryPath}`,
        hint: 'is one a copy of the other? remove the files of the copy by hand',
      });
    }
  }
  snapshots.push(omitUndefined({ ...disk, identity }));
  return { ...disk, action: 'delete' };
}

export function storedAction(host: Host, disk: DoomedSnapshot): DeleteAction {
  return {
    what: `deleted ${disk.snapshot}`,
    byHand: storageOf(host, disk).byHand(disk, 'remove', ''),
    run: () => deleteSnapshot(host, disk),
  };
}

export async function isStoredThere(host: Host, disk: DoomedSnapshot): Promise<boolean> {
  return (await storageOf(host, disk).find(disk, disk.identity)) === 'there';
}

/** Deletes a storage's snapshot, unless a program has it open. */
async function deleteSnapshot(host: Host, disk: DoomedSnapshot): Promise<boolean> {
  const storage = storageOf(host, disk);
  if ((await storage.find(disk, disk.identity)) !== 'there') return false;
  await refuseUsed(host, disk.snapshot);
  return await storage.remove(disk, disk.identity);
}
