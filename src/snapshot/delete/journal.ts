/**
 * The journal of a delete, in the place of a create's: beside the memory file. Its first line says all that is to go, and is on
 * disk before anything goes. A delete cannot be undone, so whoever finds the journal finishes it, by what still exists.
 */
import { isRecord } from '../../core/guards.ts';
import { checkedDisk, type SnapshotDisk, type TagIdentity } from '../../memfile/manifest.ts';
import { journalPathOf } from '../create/journal.ts';
import {
  checkPlace,
  type FoundSteps,
  HeadFields,
  Journal,
  type JournalHead,
  type JournalLines,
  makeHead,
  toSteps,
} from '../journal/file.ts';

/** No step needs a note: what is left to do shows in what exists. Later versions may have some. */
export type DeleteStep = { readonly step: never };

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

export interface DeleteHead extends JournalHead {
  readonly kind: 'delete';
  readonly memoryPath: string;
  /** Names and uuids that are locked. */
  readonly keys: readonly string[];
  readonly tags: readonly DoomedTag[];
  /** In this order. */
  readonly files: readonly DoomedFile[];
}

export type DeleteJournal = Journal<DeleteStep>;

/** Makes the first line. */
export function makeDeleteHead(
  snapshot: Pick<DeleteHead, 'name' | 'domain' | 'uuid'>,
  doomed: Pick<DeleteHead, 'memoryPath' | 'keys' | 'tags' | 'files'>,
): DeleteHead {
  return { ...makeHead('delete', snapshot), ...doomed };
}

/**
 * Creates the journal of a delete; it is on disk once this resolves.
 * @throws {OutputError} If it already exists, or cannot be created
 */
export async function openDeleteJournal(head: DeleteHead): Promise<DeleteJournal> {
  const { memoryPath } = head;
  const journal = await Journal.create<DeleteStep>(journalPathOf(memoryPath), head, {
    recover: memoryPath,
    sync: true,
  });
  try {
    await journal.synced();
  } catch (error) {
    await journal.remove();
    throw error;
  }
  return journal;
}

/** @throws JournalError */
export async function toDeleteJournal(
  path: string,
  lines: JournalLines,
): Promise<FoundSteps<DeleteHead, DeleteStep>> {
  const fields = new HeadFields(path, lines.head);
  const head: DeleteHead = {
    ...fields.common('delete'),
    memoryPath: fields.text('memoryPath'),
    keys: listOf(fields, lines, 'keys', (key) => (typeof key === 'string' ? key : undefined)),
    tags: listOf(fields, lines, 'tags', (tag) => toTag(path, tag)),
    files: listOf(fields, lines, 'files', toFile),
  };
  await checkPlace(path, journalPathOf(head.memoryPath));
  return { path, head, ...toSteps<DeleteStep>(lines, head, () => undefined) };
}

function listOf<T>(
  fields: HeadFields,
  { head }: JournalLines,
  key: string,
  to: (value: unknown) => T | undefined,
): readonly T[] {
  const list = head[key];
  if (!Array.isArray(list)) throw fields.damaged(`${key} is not a list`);
  return list.map((value: unknown, at) => {
    const found = to(value);
    if (found === undefined) throw fields.damaged(`${key}[${at}] is not what it should be`);
    return found;
  });
}

function toFile(value: unknown): DoomedFile | undefined {
  if (!isRecord(value)) return undefined;
  const { path, inode } = value;
  return typeof path === 'string' && typeof inode === 'number' ? { path, inode } : undefined;
}

function toTag(path: string, value: unknown): DoomedTag | undefined {
  if (!isRecord(value)) return undefined;
  let disk: SnapshotDisk;
  try {
    disk = checkedDisk(path, 'tag', value);
  } catch {
    return undefined;
  }
  if (disk.kind !== 'internal') return undefined;
  if (value['identity'] === undefined) return disk;
  const identity = toIdentity(value['identity']);
  return identity === undefined ? undefined : { ...disk, identity };
}

function toIdentity(value: unknown): TagIdentity | undefined {
  if (!isRecord(value)) return undefined;
  const { id, dateSec, dateNsec, vmClockNsec } = value;
  if (typeof id !== 'string' || typeof vmClockNsec !== 'string') return undefined;
  if (typeof dateSec !== 'number' || typeof dateNsec !== 'number') return undefined;
  return { id, dateSec, dateNsec, vmClockNsec };
}
