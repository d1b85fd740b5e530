/** Puts the disks of a revert back, and removes what is no longer needed of the former ones. */

import type { Domid } from '../../core/brand.ts';
import { describeError } from '../../core/errors.ts';
import type { RevertDisk } from '../api.ts';
import type { Phases } from '../phases.ts';
import type { Host } from '../ports.ts';
import { madeStep, type RevertJournal, withTime } from './journal.ts';
import { describeKept, type KeptDisk, planRevertDiskUndo } from './kept.ts';
import { stepsOf, type Way, wayOf } from './ways.ts';

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
  const kept: KeptDisk[] = [];
  const forget: (() => void)[] = [];
  for (const way of disks.map((disk) => wayOf(host, disk))) {
    phases.checkpoint();
    const { vdev } = way.disk;
    let made: string | undefined;
    forget.push(
      planRevertDiskUndo(phases, way, mark, () =>
        way.undoRevert(stepsOf(host, way, mark), made, () => {
          journal.noteMaybe(withTime({ step: 'undoing', vdev }));
          return Promise.resolve();
        }),
      ),
    );
    await way.revert(stepsOf(host, way, mark, phases), async (id) => {
      made = id;
      await journal.noteDurably(withTime(madeStep(way.disk, id)));
      // A call that was given up continues here if what it waited for ends after all.
      phases.checkpoint();
    });
    const former = await way.former(mark);
    if (former !== undefined) kept.push(former.kept);
  }
  phases.checkpoint();
  await journal.noteDurably(withTime({ step: 'reverted' }));
  for (const forgetUndo of forget) forgetUndo();
  return kept;
}

/**
 * Removes what the revert replaced, once the domain is restored; with `keep`, what may stay does.
 * @returns the files kept, and a warning for each thing that could not be removed
 */
export async function cleanKept(
  host: Host,
  domid: Domid,
  disks: readonly RevertDisk[],
  mark: string,
  { keep, phases }: { readonly keep: boolean; readonly phases: Phases },
): Promise<{ files: readonly string[]; warnings: readonly string[] }> {
  const files: string[] = [];
  const warnings: string[] = [];
  for (const way of disks.map((disk) => wayOf(host, disk))) {
    const { left, warning } = await cleanDisk(way, domid, mark, { keep, phases });
    if (left !== undefined) files.push(left);
    if (warning !== undefined) warnings.push(warning);
  }
  return { files, warnings };
}

async function cleanDisk(
  way: Way,
  domid: Domid,
  mark: string,
  { keep, phases }: { readonly keep: boolean; readonly phases: Phases },
): Promise<{ readonly left?: string; readonly warning?: string }> {
  let what = `what disk ${way.disk.vdev} was before`;
  try {
    const former = await phases.bounded(() => way.former(mark));
    if (former === undefined) return {};
    what = describeKept(former.kept);
    if (keep && former.mayStay) return { left: former.where };
    await phases.bounded(() => way.forget(mark, domid));
    return {};
  } catch (error) {
    return { warning: `${what} is still there: ${describeError(error)}` };
  }
}
