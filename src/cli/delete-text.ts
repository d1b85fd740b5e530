/** Texts that snapshot-delete prints. */

import { describeProblem } from '../core/problem.ts';
import { shellQuote } from '../core/shell-quote.ts';
import type { DeleteDisk, DeletePlan, DeleteResult, PlannedDelete } from '../snapshot/delete/types.ts';
import { dirOptions } from '../snapshot/naming.ts';
import { diskLinesText, formatSize, plural } from './text.ts';

/** What `snapshot-delete --dry-run` prints. */
export function deletePlanText(plan: DeletePlan): string {
  return [
    ...plan.unfinished.map((path) => `First, the delete that was killed is finished: ${path}`),
    plan.snapshots.length === 0 ? 'No snapshot would be deleted' : undefined,
    ...plan.snapshots.flatMap((one) => [
      `Snapshot "${one.name}" of ${one.domain} would be deleted`,
      ...parts(one),
    ]),
    ...plan.refused.flatMap(({ name, problems }) => [
      `Snapshot "${name}" cannot be deleted now`,
      ...problems.map((one) => `  ${describeProblem(one)}`),
    ]),
    ...plan.warnings.map((warning) => `warning: ${warning}`),
    mergedText(plan, 'Then'),
    leftText(plan),
    'Dry run: nothing was changed.',
  ]
    .filter((line) => line !== undefined)
    .join('\n');
}

/** The end of `snapshot-delete`. */
export function deleteResultText({ plan, finished }: DeleteResult): string {
  const { snapshots } = plan;
  const lines = finished.flatMap(({ name, undone }) => [
    `Snapshot "${name}": the delete that was killed is finished`,
    ...undone.map((one) => `  ${one}`),
  ]);
  for (const one of snapshots) {
    lines.push(`Snapshot "${one.name}" of ${one.domain} deleted`);
    lines.push(...one.disks.map(disk).filter((line) => line !== undefined));
  }
  if (snapshots.length > 0) {
    const bytes = snapshots.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0);
    lines.push(`${plural(snapshots.length, 'snapshot')} deleted; the files took ${formatSize(bytes)}`);
  }
  const merged = mergedText(plan, 'Now');
  if (merged !== undefined) lines.push(merged);
  const left = leftText(plan);
  if (left !== undefined) lines.push(left);
  return lines.length === 0 ? 'There was nothing to delete' : lines.join('\n');
}

/** What to do about the file that the domain is started from, once overlays are merged. */
function mergedText({ snapshots }: DeletePlan, when: string): string | undefined {
  // Newest first: what is merged last is where the disk ends up.
  const bases = new Map<string, string>();
  for (const { vdev, ...one } of snapshots.flatMap(({ disks }) => disks)) {
    if (one.action === 'merge') bases.set(vdev, one.base);
  }
  const [first] = snapshots;
  if (first === undefined || bases.size === 0) return undefined;
  return diskLinesText(first.domain, bases, when);
}

/** How to merge the overlays that stay. */
function leftText({ snapshots }: DeletePlan): string | undefined {
  const left = snapshots.filter(({ keptManifest }) => keptManifest !== undefined);
  const [first] = left;
  if (first === undefined) return undefined;
  const options = dirOptions(
    {},
    left.map(({ memoryPath }) => memoryPath),
  );
  return `To merge what is kept, once no snapshot needs it: xlsnap snapshot-delete ${shellQuote(first.domain)} --merge${options}`;
}

function parts(one: PlannedDelete): readonly string[] {
  return [
    ...one.disks.map((each) => `  disk ${each.vdev}: ${partText(each)}`),
    ...one.files.map((path) => `  ${path}`),
    `  the files take ${formatSize(one.allocatedBytes)}`,
  ];
}

/** What is kept or merged; deleted tags need no mention. */
function disk(one: DeleteDisk): string | undefined {
  if (one.action === 'keep') return `  disk ${one.vdev}: kept: ${one.reason ?? ''}`;
  return one.action === 'merge' ? `  disk ${one.vdev}: ${one.overlay} merged into ${one.base}` : undefined;
}

function partText(disk: DeleteDisk): string {
  switch (disk.action) {
    case 'keep':
      return `kept: ${disk.reason ?? ''}`;
    case 'merge':
      return `${disk.overlay}, merged into ${disk.base}`;
    case 'delete':
      return disk.kind === 'internal' ? `tag "${disk.tag}" of ${disk.image}` : disk.snapshot;
  }
}
