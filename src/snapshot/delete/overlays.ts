/** What becomes of the overlays of external snapshots: they stay, or are merged into their bases. */
import { exists } from '../../core/files.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { ExternalDisk } from '../../memfile/manifest.ts';
import { isSameImage, truePath } from '../images/chain.ts';
import { isBaseLost } from '../images/identity.ts';
import type { Host } from '../ports.ts';
import type { DeleteAction, DeleteRun } from './action.ts';
import type { DoomedOverlay } from './journal.ts';
import { doomOverlay, mergeAway, mergeObstacles } from './merge.ts';
import { disksOn, type Subject } from './subject.ts';
import type { DeleteDisk } from './types.ts';
import { usersOf } from './users.ts';

/** Base and overlay are the disk that the domain has now. */
export async function examineOverlay(subject: Subject, disk: ExternalDisk): Promise<DeleteDisk> {
  const { host, merge, problems, doomed } = subject;
  const { kind, vdev, base, overlay } = disk;
  const keep = (reason: string): DeleteDisk => ({ kind, vdev, base, overlay, action: 'keep', reason });
  if (!(await exists(overlay))) return keep(`the overlay ${overlay} no longer exists; its base is kept`);
  if (!merge) return keep(await overlayReason(host, overlay, base));
  const info = await host.images.info(overlay, 'qcow2');
  if (info?.backing === undefined || !(await isSameImage(info.backing, base))) {
    return keep(`${overlay} does not depend on ${base} any more`);
  }
  if (!(await exists(base))) {
    problems.push({ code: 'NO_IMAGE', message: `disk ${vdev}: the base ${base} no longer exists` });
    return keep(`its base ${base} no longer exists`);
  }
  problems.push(...(await mergeProblems(subject, disk)));
  doomed.overlays.push(await doomOverlay(disk));
  return { kind, vdev, base, overlay, action: 'merge' };
}

/** Why an overlay cannot be merged into its base. */
async function mergeProblems(
  { host, manifest, others, keys, merged, before }: Subject,
  disk: ExternalDisk,
): Promise<readonly Problem[]> {
  const { vdev, base, overlay } = disk;
  const problems: Problem[] = [];
  if (await isBaseLost(manifest, disk)) {
    problems.push({
      code: 'BASE_WRITTEN',
      message: `disk ${vdev}: ${base} was replaced or written to after the snapshot: ${overlay} does not fit it any more`,
      hint: 'leave out --merge; base and overlay stay as they are then',
    });
  }
  for (const image of [base, overlay]) {
    for (const other of await disksOn(others, image, 'external')) {
      if (other.disk.kind !== 'external' || (await isBaseLost(other.manifest, other.disk))) continue;
      problems.push({
        code: 'SNAPSHOT_NEEDED',
        message: `disk ${vdev}: snapshot "${other.manifest.name}" (${other.memoryPath}) needs ${image} as it is: ${overlay} cannot be merged`,
        hint: 'delete that one too, or leave out --merge; base and overlay stay as they are then',
      });
    }
  }
  if (problems.length > 0) return problems;
  const real = await truePath(overlay);
  const untagged: string[] = [];
  for (const { image, tag } of before.flatMap(({ doomed }) => doomed.tags)) {
    if ((await truePath(image)) === real) untagged.push(tag);
  }
  return await mergeObstacles(host, disk, keys, { merged, untagged });
}

async function overlayReason(host: Host, overlay: string, base: string): Promise<string> {
  const { user } = await usersOf(host, overlay, []);
  return user === undefined
    ? `${overlay} has what was written since the snapshot, and depends on ${base}`
    : `${user.holder} uses ${user.path}, which depends on ${base}`;
}

export function overlayAction(host: Host, disk: DoomedOverlay, run: DeleteRun): DeleteAction {
  return {
    what: `merged ${disk.overlay} into ${disk.base}`,
    byHand: `with the domain down, qemu-img commit ${shellQuote(disk.overlay)}, then rm ${shellQuote(disk.overlay)}`,
    run: () => mergeAway(host, disk, run),
  };
}
