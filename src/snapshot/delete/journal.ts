/**
 * The journal of a delete, in the place of a create's: beside the memory file. Its first line says all that is to go, and is on
 * disk before anything goes. A delete cannot be undone, so whoever finds the journal finishes it, by what still exists.
 */
import type { Fields } from '../../core/fields.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import {
  type SnapshotDisk,
  type StorageDisk,
  type TagIdentity,
  toSnapshotDisk,
  toTagIdentity,
} from '../../memfile/manifest.ts';
import {
  checkPlace,
  type FoundSteps,
  Journal,
  type JournalHead,
  type JournalLines,
  makeHead,
  readHead,
  toSteps,
} from '../journal/file.ts';
import { journalPathOf } from '../naming.ts';

/**
 * How far the merge of an overlay has come. For all else, what is left to do shows in what exists.
 *
 * `merging`: the base is being written to, the overlay has all data. `switching`: both have all data, and the domain is about to
 * continue on the base. `merged`: it has done so, and the overlay is of no use.
 */
export type DeleteStep =
  | { readonly step: 'merging' | 'merged'; readonly vdev: string }
  | { readonly step: 'switching'; readonly vdev: string; readonly domid: number };

/** A file that is to be removed, unless another has taken its place. */
export interface DoomedFile {
  readonly path: string;
  readonly inode: number;
}

/** A tag that is to be deleted, unless another of its name has taken its place. */
export type DoomedTag = Extract<SnapshotDisk, { kind: 'internal' }> & {
  /** Absent for a snapshot of a version of xlsnap that noted none. */
  readonly identity?: TagIdentity;
};

/** An overlay that is to be merged into its base and removed, unless another file has taken the place of one of them. */
export type DoomedOverlay = Extract<SnapshotDisk, { kind: 'external' }> & {
  /** Inode number of the overlay. */
  readonly inode: number;
  /** Inode number of the base; absent for a block device, which may have another after a restart. */
  readonly baseInode?: number;
};

/** A storage's snapshot that is to be deleted, unless another has taken its place. */
export type DoomedSnapshot = StorageDisk & {
  /** What the manifest has. */
  readonly identity?: string;
};

export interface DeleteHead extends JournalHead {
  readonly kind: 'delete';
  readonly memoryPath: string;
  /** Names and uuids that are locked. */
  readonly keys: readonly string[];
  readonly tags: readonly DoomedTag[];
  readonly overlays: readonly DoomedOverlay[];
  readonly snapshots: readonly DoomedSnapshot[];
  /** In this order. */
  readonly files: readonly DoomedFile[];
}

export type DeleteJournal = Journal<DeleteStep>;

/** Makes the first line. */
export function makeDeleteHead(
  snapshot: Pick<DeleteHead, 'name' | 'domain' | 'uuid'>,
  doomed: Pick<DeleteHead, 'memoryPath' | 'keys' | 'tags' | 'overlays' | 'snapshots' | 'files'>,
): DeleteHead {
  return { ...makeHead('delete', snapshot), ...doomed };
}

/**
 * Creates the journal of a delete; it is on disk once this resolves.
 * @throws {OutputError} If it already exists, or cannot be created
 */
export async function openDeleteJournal(head: DeleteHead): Promise<DeleteJournal> {
  const { memoryPath } = head;
  return await Journal.createDurably(journalPathOf(memoryPath), head, memoryPath);
}

/**
 * Reads a journal.
 * @throws {JournalError} If it is damaged, or not in its place
 */
export async function toDeleteJournal(
  path: string,
  lines: JournalLines,
): Promise<FoundSteps<DeleteHead, DeleteStep>> {
  const { common, fields } = readHead(path, lines.head, 'delete');
  const head: DeleteHead = {
    ...common,
    memoryPath: fields.text('memoryPath'),
    keys: fields.texts('keys'),
    tags: fields.list('tags').map(toDoomedTag),
    // Versions of xlsnap that merged none wrote no such key.
    overlays: fields.optional('overlays', (key) => fields.list(key).map(toDoomedOverlay)) ?? [],
    // Nor this one, those that knew no storages.
    snapshots: fields.optional('snapshots', (key) => fields.list(key).map(toDoomedSnapshot)) ?? [],
    files: fields.list('files').map((file) => ({ path: file.text('path'), inode: file.count('inode') })),
  };
  await checkPlace(path, journalPathOf(head.memoryPath));
  return { path, head, ...toSteps<DeleteStep>(lines, head, toStep) };
}

function toStep({ step, vdev, domid }: Readonly<Record<string, unknown>>): DeleteStep | undefined {
  if (typeof vdev !== 'string') return undefined;
  if (step === 'merging' || step === 'merged') return { step, vdev };
  return step === 'switching' && typeof domid === 'number' ? { step, vdev, domid } : undefined;
}

function toDoomedOverlay(fields: Fields): DoomedOverlay {
  const disk = toSnapshotDisk(fields);
  if (disk.kind !== 'external') throw fields.error('kind', 'is not external');
  const inode = fields.count('inode');
  return omitUndefined({
    ...disk,
    inode,
    baseInode: fields.optional('baseInode', (key) => fields.count(key)),
  });
}

function toDoomedTag(fields: Fields): DoomedTag {
  const disk = toSnapshotDisk(fields);
  if (disk.kind !== 'internal') throw fields.error('kind', 'is not internal');
  const identity = fields.optional('identity', (key) => toTagIdentity(fields.fields(key)));
  return omitUndefined({ ...disk, identity });
}

function toDoomedSnapshot(fields: Fields): DoomedSnapshot {
  const disk = toSnapshotDisk(fields);
  if (disk.kind !== 'storage') throw fields.error('kind', 'is not storage');
  const identity = fields.optional('identity', (key) => fields.text(key));
  return omitUndefined({ ...disk, identity });
}
