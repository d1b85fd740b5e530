/**
 * The journal of a create, beside the memory file. The first line is on disk before anything is done to the guest; the others
 * may be lost if the host crashes, so `recoverSnapshot` then looks at what exists.
 */

import { type SnapshotDisk, toSnapshotDisk } from '../../memfile/manifest.ts';
import type { SnapshotPlan } from '../api.ts';
import { type HoldState, isHold } from '../guest/hold.ts';
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

/** A step of a create. */
export type CreateStep =
  /** The partial file is about to get its name; it has this inode number. */
  | { readonly step: 'opened'; readonly inode: number }
  /** Only read: before there was a record in `/run/xlsnap`, what was done to the guest was here. */
  | { readonly step: 'log-dirty'; readonly on: boolean }
  | { readonly step: 'hold'; readonly hold: HoldState }
  /** The disks' transaction comes next. */
  | { readonly step: 'disks' }
  /** Storages prepare their disks' snapshots next. */
  | { readonly step: 'preparing' }
  /** A storage is preparing a disk's snapshot, and what it makes is known by that. */
  | { readonly step: 'prepared'; readonly vdev: string; readonly made: string }
  /** An overlay is reserved, with this inode number: an empty file, that QEMU is to write to. */
  | { readonly step: 'reserved'; readonly vdev: string; readonly inode: number }
  /** A small file with these bytes comes next; until it is complete, `PATH.partial` has this inode number. */
  | {
      readonly step: 'text';
      readonly path: string;
      readonly sha256: string;
      /** Absent in journals of earlier versions. */
      readonly inode?: number;
    }
  /** A stream's reader has received all of it. */
  | { readonly step: 'whole' }
  | { readonly step: 'undoing' }
  /** Why a guardian could not undo everything. */
  | { readonly step: 'problem'; readonly message: string };

export interface CreateHead extends JournalHead {
  readonly kind: 'create';
  readonly domid: number;
  /** The memory file; for a stream, where it would be. */
  readonly memoryPath: string;
  /** The highest directory that was created for it, if any. */
  readonly madeDirectory?: string | undefined;
  /** In the names of files that are being reserved; empty in journals of earlier versions. */
  readonly mark: string;
  readonly disks: readonly SnapshotDisk[];
}

export type CreateJournal = Journal<CreateStep>;

/**
 * Creates the journal of a new create.
 * @param base the memory file, or where it would be
 * @throws {OutputError} If it already exists, or cannot be created
 */
export async function openCreateJournal(
  plan: SnapshotPlan,
  base: string,
  madeDirectory: string | undefined,
  mark: string,
): Promise<CreateJournal> {
  const head: CreateHead = {
    ...makeHead('create', plan),
    domid: plan.domid,
    memoryPath: base,
    madeDirectory,
    mark,
    disks: plan.disks,
  };
  return await Journal.create(journalPathOf(base), head, { recover: base, sync: plan.sync });
}

/** Notes a step before it takes effect, on the disk unless the user wants no syncs. */
export async function noteFor(
  { sync }: Pick<SnapshotPlan, 'sync'>,
  journal: CreateJournal,
  step: CreateStep,
): Promise<void> {
  if (sync) await journal.noteDurably(step);
  else journal.note(step);
}

/**
 * Reads the journal of a create.
 * @throws {JournalError} If it is damaged, or was moved
 */
export async function toCreateJournal(
  path: string,
  lines: JournalLines,
): Promise<FoundSteps<CreateHead, CreateStep>> {
  const { common, fields } = readHead(path, lines.head, 'create');
  const mark = fields.optional('mark', (key) => fields.text(key)) ?? '';
  if (!/^[0-9a-z-]*$/.test(mark)) throw fields.error('mark', 'has invalid characters');
  const head: CreateHead = {
    ...common,
    domid: fields.count('domid'),
    memoryPath: fields.text('memoryPath'),
    madeDirectory: fields.optional('madeDirectory', (key) => fields.text(key)),
    mark,
    disks: fields.list('disks').map(toSnapshotDisk),
  };
  await checkPlace(path, journalPathOf(head.memoryPath));
  return { path, head, ...toSteps(lines, head, toStep) };
}

function toStep(line: Readonly<Record<string, unknown>>): CreateStep | undefined {
  const { step, inode, on, hold, path, sha256, message, vdev, made } = line;
  switch (step) {
    case 'opened':
      return typeof inode === 'number' ? { step, inode } : undefined;
    case 'log-dirty':
      return typeof on === 'boolean' ? { step, on } : undefined;
    case 'hold':
      return isHold(hold) ? { step, hold } : undefined;
    case 'text':
      if (typeof path !== 'string' || typeof sha256 !== 'string') return undefined;
      return { step, path, sha256, ...(typeof inode === 'number' ? { inode } : {}) };
    case 'reserved':
      return typeof vdev === 'string' && typeof inode === 'number' ? { step, vdev, inode } : undefined;
    case 'prepared':
      return typeof vdev === 'string' && typeof made === 'string' ? { step, vdev, made } : undefined;
    case 'problem':
      return typeof message === 'string' ? { step, message } : undefined;
    case 'preparing':
    case 'disks':
    case 'whole':
    case 'undoing':
      return { step };
    default:
      return undefined;
  }
}
