/** The plan of a delete, with all its checks. */
import { stat } from 'node:fs/promises';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { FoundManifest } from '../../memfile/find-manifests.ts';
import type { ExternalDisk } from '../../memfile/manifest.ts';
import { configPathOf, manifestPathOf } from '../../memfile/names.ts';
import { asFinding } from '../findings.ts';
import { mergeableLater } from '../list/left-over.ts';
import { journalPathOf, snapshotDirOf } from '../naming.ts';
import type { Host } from '../ports.ts';
import { isUnfinished } from '../read-journal.ts';
import { imagesOf, relatedReverts } from '../revert/related.ts';
import { examineDisk } from './disks.ts';
import type { DoomedFile } from './journal.ts';
import { type DoomedDisks, type Surroundings, subjectOf } from './subject.ts';
import type { DeleteDisk, PlannedDelete, RefusedDelete } from './types.ts';

/** One snapshot as it is now: what would be done, or why it cannot be. */
export interface Examined {
  readonly planned: PlannedDelete;
  readonly doomed: DoomedDisks;
  readonly files: readonly DoomedFile[];
  /** Why it cannot be deleted; empty if it can. */
  readonly problems: readonly Problem[];
}

/** Looks at a snapshot that is to be deleted. Changes nothing. */
export async function examine(
  host: Host,
  { memoryPath, manifest }: FoundManifest,
  surroundings: Surroundings,
  warn: (message: string) => void,
): Promise<Examined> {
  const problems: Problem[] = [];
  const { name, domain, uuid, created } = manifest;
  if (await isUnfinished(journalPathOf(memoryPath))) {
    problems.push({
      code: 'UNFINISHED',
      message: `a create of "${name}" was killed, or is under way`,
      hint: `xlsnap recover ${shellQuote(memoryPath)} ends it`,
    });
  }
  const about = { keys: [uuid, domain], images: imagesOf(manifest.disks) };
  for (const { path } of await relatedReverts(snapshotDirOf(host), about, warn)) {
    problems.push({
      code: 'REVERT_UNFINISHED',
      message: `a revert of ${domain} was killed, or is under way: its journal is ${path}`,
      hint: `run that snapshot-revert again, or xlsnap recover ${shellQuote(path)}`,
    });
  }
  const disks: DeleteDisk[] = [];
  const subject = await subjectOf(host, manifest, surroundings, problems);
  const { doomed } = subject;
  for (const disk of manifest.disks) {
    await asFinding(problems, async () => {
      disks.push(await examineDisk(subject, disk));
    });
  }
  let left: readonly ExternalDisk[] = [];
  if (!surroundings.merge) {
    await asFinding(problems, async () => {
      left = await mergeableLater(host, manifest);
    });
  }
  const { files, allocatedBytes } = await filesOf(memoryPath, left.length > 0);
  if (left.length > 0 && files.length === 0 && Object.values(doomed).flat().length === 0) {
    problems.push({
      code: 'OVERLAY_LEFT',
      message: `it was deleted; what is left is ${left.map(({ overlay }) => overlay).join(', ')}`,
      hint: '--merge merges that into its base',
    });
  }
  return {
    planned: omitUndefined({
      name,
      domain,
      uuid,
      created,
      memoryPath,
      files: files.map(({ path }) => path),
      allocatedBytes,
      disks,
      keptManifest: left.length > 0 ? manifestPathOf(memoryPath) : undefined,
    }),
    doomed,
    files,
    problems,
  };
}

/** Says why a snapshot cannot be deleted. */
export function refusedOf({ planned, problems }: Examined): RefusedDelete {
  const { name, created, memoryPath } = planned;
  return { name, created, memoryPath, problems };
}

async function filesOf(
  memoryPath: string,
  keepManifest: boolean,
): Promise<{ readonly files: readonly DoomedFile[]; readonly allocatedBytes: number }> {
  const files: DoomedFile[] = [];
  let allocatedBytes = 0;
  const manifest = keepManifest ? [] : [manifestPathOf(memoryPath)];
  for (const path of [configPathOf(memoryPath), memoryPath, ...manifest]) {
    const found = await stat(path).catch(() => undefined);
    if (found === undefined) continue;
    files.push({ path, inode: found.ino });
    allocatedBytes += found.blocks * 512;
  }
  return { files, allocatedBytes };
}
