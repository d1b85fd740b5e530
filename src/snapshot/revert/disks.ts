/** Puts the disks of a revert back, and removes what is no longer needed of the former ones. */

import { rm, stat } from 'node:fs/promises';
import type { Domid } from '../../core/brand.ts';
import { describeError } from '../../core/errors.ts';
import { exists } from '../../core/files.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { RevertDisk } from '../api.ts';
import { refuseUsed } from '../images/chain.ts';
import { freeImages } from '../images/free.ts';
import type { Phases } from '../phases.ts';
import type { Host } from '../ports.ts';
import { storageOf } from '../storage/find.ts';
import type { RevertSteps } from '../storage/port.ts';
import { deleteSafetyTag } from './delete-safety-tag.ts';
import { type RevertJournal, withTime } from './journal.ts';
import { describeKept, type KeptDisk, planRevertDiskUndo } from './kept.ts';
import { asidePath, freshPath, safetyTag } from './names.ts';

/**
 * Puts every disk back; no program may use them. Each step has its undo in `phases`, so that a failure on one disk leaves all
 * as before; once this resolves, the undos are forgotten and what was replaced is in the result: the caller keeps that until
 * the domain is restored.
 *
 * @throws {DiskError} If a disk cannot be put back
 * @throws {OutputError} If the journal cannot be written
 * @throws {InterruptedError} If the signal is aborted
 * @param mark distinguishes this revert's files and tags from others; `[0-9a-z-]`
 */
export async function revertDisks(
  host: Host,
  disks: readonly RevertDisk[],
  mark: string,
  phases: Phases,
  journal: RevertJournal,
): Promise<readonly KeptDisk[]> {
  const free = freeImages(host);
  const kept: KeptDisk[] = [];
  const forget: (() => void)[] = [];
  const onUndo = (disk: RevertDisk, putBack: () => Promise<unknown>): void => {
    const undo = (): Promise<unknown> => {
      journal.noteMaybe(withTime({ step: 'undoing', vdev: disk.vdev }));
      return putBack();
    };
    forget.push(planRevertDiskUndo(phases, host, disk, mark, undo));
  };
  for (const disk of disks) {
    phases.checkpoint();
    if (disk.kind === 'internal') {
      const safety = safetyTag(mark);
      await free.createTag(disk.image, safety);
      onUndo(disk, async () => {
        await free.applyTag(disk.image, safety);
        await free.deleteTag(disk.image, safety);
      });
      await journal.noteDurably(withTime({ step: 'tagged', vdev: disk.vdev }));
      // A call that was given up continues here if what it waited for ends after all.
      phases.checkpoint();
      await free.applyTag(disk.image, disk.tag);
      kept.push({ kind: 'tag', vdev: disk.vdev, image: disk.image, tag: safety });
    } else if (disk.kind === 'storage') {
      const storage = storageOf(host, disk);
      let made: string | undefined;
      onUndo(disk, () => storage.undoRevert(disk, stepsOf(host, disk, mark), made, async () => {}));
      await storage.revert(disk, stepsOf(host, disk, mark, phases), async (id) => {
        made = id;
        await journal.noteDurably(withTime({ step: 'made', vdev: disk.vdev, made: id }));
      });
      const path = (await storage.former(disk, mark)) ?? disk.image;
      kept.push({ kind: 'storage', vdev: disk.vdev, path, forget: () => storage.forget(disk, mark) });
    } else {
      const aside = asidePath(disk.overlay, mark);
      const fresh = freshPath(disk.overlay, mark);
      onUndo(disk, async () => {
        await rm(fresh, { force: true });
        if (await exists(aside)) await free.rename(aside, disk.overlay);
        else if (disk.replaced === undefined) await free.remove(disk.overlay);
      });
      await host.images.createOverlay(fresh, { path: disk.base, format: disk.baseFormat });
      const { ino: inode } = await stat(fresh);
      await journal.noteDurably(withTime({ step: 'fresh', vdev: disk.vdev, inode }));
      phases.checkpoint();
      if (disk.replaced !== undefined) {
        await free.rename(disk.overlay, aside);
        kept.push({ kind: 'file', vdev: disk.vdev, path: aside });
      }
      phases.checkpoint();
      await free.rename(fresh, disk.overlay);
    }
  }
  phases.checkpoint();
  await journal.noteDurably(withTime({ step: 'reverted' }));
  for (const forgetUndo of forget) forgetUndo();
  return kept;
}

/**
 * What a storage needs for its part of a revert.
 * @param phases if it is to end when the revert is interrupted
 */
export function stepsOf(
  host: Host,
  disk: Pick<StorageDisk, 'image'>,
  mark: string,
  phases?: Phases,
): RevertSteps {
  const checkFree = async (): Promise<void> => {
    await refuseUsed(host, disk.image);
    // A call that was given up continues here if what it waited for ends after all.
    phases?.checkpoint();
  };
  return { mark, checkFree };
}

/**
 * Removes what the revert replaced, once the domain is restored; with `keep`, overlays stay (safety tags never do).
 * @returns the files kept, and a warning for each thing that could not be removed
 */
export async function cleanKept(
  host: Host,
  domid: Domid,
  kept: readonly KeptDisk[],
  keep: boolean,
  phases: Phases,
): Promise<{ files: readonly string[]; warnings: readonly string[] }> {
  const files: string[] = [];
  const warnings: string[] = [];
  for (const disk of kept) {
    try {
      if (disk.kind === 'tag') await phases.bounded(() => deleteSafetyTag(host, domid, disk));
      else if (keep) files.push(disk.path);
      else if (disk.kind === 'storage') await phases.bounded(disk.forget);
      else await rm(disk.path, { force: true });
    } catch (error) {
      warnings.push(`${describeKept(disk)} is still there: ${describeError(error)}`);
    }
  }
  return { files, warnings };
}
