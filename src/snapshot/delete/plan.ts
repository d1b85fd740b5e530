/** The plan of a delete, with all its checks. */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { SnapshotConfig } from '../../config/config.ts';
import { DomainError, UsageError } from '../../core/errors.ts';
import { exists } from '../../core/files.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import {
  byAge,
  type FoundManifest,
  type FoundManifests,
  findManifests,
} from '../../memfile/find-manifests.ts';
import {
  type ExternalDisk,
  type Manifest,
  readManifest,
  type SnapshotDisk,
  type StorageDisk,
} from '../../memfile/manifest.ts';
import { configPathOf, manifestPathOf } from '../../memfile/names.ts';
import { asFinding } from '../findings.ts';
import { howToRelease, isSameImage, truePath, userOf } from '../images/chain.ts';
import { isBaseLost, isSameTag } from '../images/identity.ts';
import { JournalError } from '../journal/file.ts';
import { isLeftOver, mergeableLater } from '../list/left-over.ts';
import { searched } from '../list/list.ts';
import { type GivenDomain, givenDomain, ownedBy } from '../list/match.ts';
import { pickNamed } from '../list/named.ts';
import { journalPathOf, snapshotDirOf } from '../naming.ts';
import type { Host } from '../ports.ts';
import { readJournal } from '../read-journal.ts';
import { imagesOf, relatedReverts } from '../revert/related.ts';
import { storageOf } from '../storage/find.ts';
import { type FoundDelete, findDeletes } from './find.ts';
import type { DoomedFile, DoomedOverlay, DoomedSnapshot, DoomedTag } from './journal.ts';
import { doomOverlay, mergeObstacles } from './merge.ts';
import { findTag } from './steps.ts';
import type { DeleteDisk, DeleteRequest, PlannedDelete, RefusedDelete } from './types.ts';
import { type Merged, ownDomain, usersOf } from './users.ts';

/** What a delete is about, by names and manifests alone. */
export interface DeleteTarget {
  readonly given: GivenDomain;
  /** Newest first. */
  readonly snapshots: readonly FoundManifest[];
  /** Deletes of them that were killed, or are under way. */
  readonly unfinished: readonly FoundDelete[];
  /** Everything that was found. */
  readonly all: FoundManifests;
  /** What to lock. */
  readonly keys: readonly string[];
}

/**
 * Finds the snapshots that a request is about. Changes nothing.
 * @param finished names and memory paths of those whose delete has been finished: they need not exist
 * @throws {UsageError} If the request makes no sense, or names a snapshot that does not exist
 * @throws {DomainError} If it is about dom0
 * @throws {ManifestError} If a manifest that was named is damaged
 * @throws {EnvironmentError} If a directory cannot be read
 */
export async function findDeleteTarget(
  host: Host,
  request: DeleteRequest,
  finished: readonly string[] = [],
): Promise<DeleteTarget> {
  checkRequest(request);
  const given = await givenDomain(host, request.domain);
  if (given.running?.domid === 0) {
    throw new DomainError('DOMAIN_NOT_FOUND', 'dom0 has no snapshots', { domid: 0 });
  }
  const wanted = (request.snapshots ?? []).map(toWanted);
  const paths = wanted.flatMap(({ path }) => (path === undefined ? [] : [path]));
  const searchedToo = await searched(host, request.directories);
  const directories = [...searchedToo, ...paths.map((path) => dirname(path))];
  const all = await findManifests(directories, searchedToo);
  const own = await ownedBy(host, all.found, given);
  const deletes = (await findDeletes(directories, searchedToo)).filter(({ head }) =>
    head.keys.some((key) => given.keys.includes(key)),
  );
  const unfinished: FoundDelete[] = [];
  const snapshots: FoundManifest[] = [];
  if (wanted.length === 0 && request.keep === undefined) {
    for (const found of own) if (await isLeftOver(found)) snapshots.push(found);
  } else if (request.keep === undefined) {
    for (const { name, path } of wanted) {
      const begun = deletes.filter(({ head }) => head.name === name || head.memoryPath === path);
      unfinished.push(...begun.filter((one) => !unfinished.includes(one)));
      if (begun.length > 0 || finished.includes(name ?? path)) continue;
      const found =
        path === undefined
          ? pickNamed({ domain: request.domain, name }, searchedToo, own, all)
          : await ofPath(path, all, own, request);
      if (!snapshots.includes(found)) snapshots.push(found);
    }
  } else {
    unfinished.push(...deletes);
    const begun = new Set(deletes.map(({ head }) => head.memoryPath));
    const counted: FoundManifest[] = [];
    for (const found of byAge(own)) {
      const { memoryPath, manifest } = found;
      if (!manifest.name.startsWith(request.prefix ?? '') || begun.has(memoryPath)) continue;
      if (await isWhole(memoryPath)) counted.push(found);
    }
    snapshots.push(...counted.slice(0, Math.max(0, counted.length - request.keep)));
  }
  const keys = new Set([
    ...given.keys,
    ...snapshots.flatMap(({ manifest }) => [manifest.uuid, manifest.domain]),
    ...unfinished.flatMap(({ head }) => head.keys),
  ]);
  return { given, snapshots: [...byAge(snapshots)].reverse(), unfinished, all, keys: [...keys] };
}

/** @throws {UsageError} If options contradict each other */
function checkRequest({ snapshots = [], keep, prefix, merge }: DeleteRequest): void {
  if (keep !== undefined && snapshots.length > 0) {
    throw new UsageError('KEEP', 'give either names of snapshots or the number to keep, not both');
  }
  if (keep !== undefined && merge === true) {
    throw new UsageError(
      'KEEP',
      'give either the number to keep or --merge: the snapshots that are kept need the overlays',
      {
        hint: 'once nothing needs them any more, --merge alone merges those that earlier deletes have left',
      },
    );
  }
  if (keep === undefined && snapshots.length === 0 && merge !== true) {
    throw new UsageError(
      'KEEP',
      'there is nothing to delete: give names of snapshots, the number to keep, or --merge',
    );
  }
  if (keep !== undefined && !(Number.isSafeInteger(keep) && keep > 0)) {
    throw new UsageError('KEEP', `${keep} is not a number of snapshots to keep`);
  }
  if (prefix !== undefined && keep === undefined) {
    throw new UsageError('KEEP', 'a prefix is only for the number of snapshots to keep');
  }
}

/** A snapshot by its name, or by the path of its memory file. */
type Wanted =
  | { readonly name: string; readonly path?: undefined }
  | { readonly name?: undefined; readonly path: string };

/** @throws {UsageError} If a cfgfile has neither `name` nor `memory_path` */
function toWanted(one: string | SnapshotConfig): Wanted {
  if (typeof one === 'string') return { name: one };
  const { memoryPath, name, source } = one;
  if (memoryPath !== undefined) return { path: memoryPath };
  if (name !== undefined) return { name };
  throw new UsageError('NO_MEMORY_PATH', `${source ?? 'the cfgfile'} has neither a memory_path nor a name`, {
    hint: 'give the cfgfile that snapshot-create wrote, or the name of the snapshot',
  });
}

/** The snapshot that a cfgfile names, which must be of the domain. */
async function ofPath(
  memoryPath: string,
  { found, damaged }: FoundManifests,
  own: readonly FoundManifest[],
  { domain }: DeleteRequest,
): Promise<FoundManifest> {
  const real = await truePath(memoryPath);
  for (const one of found) {
    if (one.memoryPath !== memoryPath && (await truePath(one.memoryPath)) !== real) continue;
    if (own.includes(one)) return one;
    const { name, uuid } = { name: one.manifest.domain, uuid: one.manifest.uuid };
    throw new DomainError('OTHER_DOMAIN', `the snapshot is of domain ${name}, not of ${domain}`, {
      hint: `use its name: ${name}`,
      data: { stored: { name, uuid } },
    });
  }
  // Why it cannot be read, or not trusted, if it is there.
  for (const one of damaged) if ((await truePath(one.memoryPath)) === real) throw one.error;
  await readManifest(manifestPathOf(memoryPath));
  throw new UsageError('NO_SNAPSHOT', `there is no manifest ${manifestPathOf(memoryPath)}`, {
    hint: 'without it nothing says what belongs to the snapshot: docs/howto/clean-up.md deletes one by hand',
  });
}

/** One snapshot as it is now: what would be done, or why it cannot be. */
export interface Examined {
  readonly planned: PlannedDelete;
  readonly tags: readonly DoomedTag[];
  readonly overlays: readonly DoomedOverlay[];
  readonly snapshots: readonly DoomedSnapshot[];
  readonly files: readonly DoomedFile[];
  /** Why it cannot be deleted; empty if it can. */
  readonly problems: readonly Problem[];
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
  readonly before: readonly Examined[];
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
  const tags: DoomedTag[] = [];
  const overlays: DoomedOverlay[] = [];
  const snapshots: DoomedSnapshot[] = [];
  const subject: Subject = { ...surroundings, host, manifest, merged: await mergedBy(surroundings.before) };
  for (const disk of manifest.disks) {
    await asFinding(problems, async () => {
      if (disk.kind === 'external') disks.push(await externalDisk(subject, disk, problems, overlays));
      else if (disk.kind === 'storage') disks.push(await storedDisk(subject, disk, problems, snapshots));
      else disks.push(await internalDisk(subject, disk, problems, tags));
    });
  }
  let left: readonly ExternalDisk[] = [];
  if (!surroundings.merge) {
    await asFinding(problems, async () => {
      left = await mergeableLater(host, manifest);
    });
  }
  const { files, allocatedBytes } = await filesOf(memoryPath, left.length > 0);
  if (left.length > 0 && [...files, ...tags, ...snapshots].length === 0) {
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
    tags,
    overlays,
    snapshots,
    files,
    problems,
  };
}

/** A snapshot with what it is looked at with. */
interface Subject extends Surroundings {
  readonly host: Host;
  readonly manifest: Manifest;
  readonly merged: Merged;
}

async function mergedBy(before: readonly Examined[]): Promise<Merged> {
  const merged = before.flatMap(({ overlays }) => overlays);
  return new Map(
    await Promise.all(
      merged.map(
        async ({ overlay, base, baseFormat }) =>
          [await truePath(overlay), { path: base, format: baseFormat }] as const,
      ),
    ),
  );
}

/**
 * Tells whether a snapshot may be one of those that are kept: a manifest is written before its memory file gets its name, so a
 * create that was killed may have left one alone.
 */
async function isWhole(memoryPath: string): Promise<boolean> {
  return (await exists(memoryPath)) && !(await isUnfinished(journalPathOf(memoryPath)));
}

/** Tells whether a journal says that something was begun. One without a first line does not. */
async function isUnfinished(path: string): Promise<boolean> {
  try {
    const journal = await readJournal(path);
    return journal !== undefined && journal.kind !== 'headless';
  } catch (error) {
    if (error instanceof JournalError) return true;
    throw error;
  }
}

/** Says why a snapshot cannot be deleted. */
export function refusedOf({ planned, problems }: Examined): RefusedDelete {
  const { name, created, memoryPath } = planned;
  return { name, created, memoryPath, problems };
}

type Internal = Extract<SnapshotDisk, { kind: 'internal' }>;
async function internalDisk(
  { host, manifest, others, keys, merged }: Subject,
  disk: Internal,
  problems: Problem[],
  tags: DoomedTag[],
): Promise<DeleteDisk> {
  const { vdev, image, tag } = disk;
  const keep = (reason: string): DeleteDisk => ({ ...disk, action: 'keep', reason });
  const identity = identityOf(manifest, vdev);
  const doomed: DoomedTag = omitUndefined({ ...disk, identity });
  const info = await host.images.info(image, 'qcow2');
  if (info === undefined) return keep(`the image ${image} no longer exists`);
  if (!info.tags.includes(tag)) return keep(`${image} has no such tag any more`);
  const there = findTag(info.snapshots, doomed);
  if (there === undefined) return keep(`the tag in ${image} is a later one of the same name`);
  for (const other of await disksOn(others, image, 'internal')) {
    if (other.disk.kind !== 'internal' || other.disk.tag !== tag) continue;
    const its = identityOf(other.manifest, other.disk.vdev);
    if (its !== undefined && !isSameTag(its, there)) continue;
    if (identity === undefined && its !== undefined) {
      return keep(`the tag in ${image} belongs to snapshot "${other.manifest.name}" (${other.memoryPath})`);
    }
    problems.push({
      code: 'SNAPSHOT_NEEDED',
      message: `disk ${vdev}: the tag "${tag}" of ${image} also belongs to the snapshot ${other.memoryPath}`,
      hint: 'is one a copy of the other? remove the files of the copy by hand',
    });
  }
  const { user, own } = await usersOf(host, image, keys, merged);
  if (user !== undefined && own === undefined) {
    problems.push({
      code: 'IMAGE_IN_USE',
      message: `disk ${vdev}: ${user.holder} uses ${user.path}${user.path === image ? '' : `, which depends on ${image}`}: its tag cannot be deleted`,
      // QEMU deletes tags of the image on top only. With the domain down, the base of a snapshot is refused, too.
      hint:
        user.path !== image && (await ownDomain(host, user, keys)) !== undefined
          ? `delete the external snapshots above it too, with --merge; for those deleted already, run xlsnap snapshot-delete ${shellQuote(manifest.domain)} --merge first`
          : `${howToRelease(user)} first`,
    });
  }
  if (user === undefined) {
    // Deleting a tag writes to the image, and then a revert could not tell that nothing else was written.
    for (const other of await disksOn(others, image, 'external')) {
      if (other.disk.kind !== 'external' || (await isBaseLost(other.manifest, other.disk))) continue;
      problems.push({
        code: 'SNAPSHOT_NEEDED',
        message: `disk ${vdev}: ${image}, which would be written to, is the base of snapshot "${other.manifest.name}" (${other.memoryPath})`,
        hint: 'delete that one too, with --merge',
      });
    }
  }
  tags.push(doomed);
  return { ...disk, action: 'delete' };
}

/** What a storage has is deleted by it, unless another snapshot or a program needs it. */
async function storedDisk(
  { host, manifest, others }: Subject,
  disk: StorageDisk,
  problems: Problem[],
  snapshots: DoomedSnapshot[],
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

/** Base and overlay are the disk that the domain has now. */
async function externalDisk(
  subject: Subject,
  disk: ExternalDisk,
  problems: Problem[],
  overlays: DoomedOverlay[],
): Promise<DeleteDisk> {
  const { host, merge } = subject;
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
  overlays.push(await doomOverlay(disk));
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
  for (const { image, tag } of before.flatMap(({ tags }) => tags)) {
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

/** A disk of another snapshot. */
interface OtherDisk extends FoundManifest {
  readonly disk: SnapshotDisk;
}

/** Disks of other snapshots that need an image: as the place of their tag, or as their base. */
async function disksOn(
  others: readonly FoundManifest[],
  image: string,
  kind: SnapshotDisk['kind'],
): Promise<readonly OtherDisk[]> {
  const wanted = await truePath(image);
  const found: OtherDisk[] = [];
  for (const other of others) {
    for (const disk of other.manifest.disks) {
      if (disk.kind !== kind) continue;
      const path = disk.kind === 'external' ? disk.base : disk.image;
      if ((await truePath(path)) === wanted) found.push({ ...other, disk });
    }
  }
  return found;
}

function identityOf({ identities = [] }: Manifest, vdev: string): DoomedTag['identity'] {
  return identities.find((one) => one.vdev === vdev)?.tag;
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
