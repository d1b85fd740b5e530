/**
 * The journal of a revert. It is not beside the memory file, which may be on a read-only file system. Each line is on
 * disk before the next step takes effect: there is no guest any more that would have to wait.
 */
import { join } from 'node:path';
import type { Fields } from '../../core/fields.ts';
import { toSnapshotDisk } from '../../memfile/manifest.ts';
import type { RevertDisk, RevertPlan } from '../api.ts';
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
import type { DomainState } from '../ports.ts';
import { isRiskName, type RiskName } from '../risks.ts';

/** A step of a revert. */
export type RevertEvent =
  /** The safety tag is in the image; applying the snapshot's comes next. */
  | { readonly step: 'tagged'; readonly vdev: string }
  /** The fresh overlay exists, with this inode number; moving it into place comes next. */
  | { readonly step: 'fresh'; readonly vdev: string; readonly inode: number }
  /** What a storage has made to take the disk's place is there, and it is known by that; the swap comes next. */
  | { readonly step: 'made'; readonly vdev: string; readonly made: string }
  /** All disks are as at the snapshot, and stay like that. */
  | { readonly step: 'reverted' }
  /** Restoring the domain comes next. */
  | { readonly step: 'restoring' }
  /** The domain exists, paused. */
  | { readonly step: 'restored'; readonly domid: number }
  /** The domain was unpaused: if it is paused now, its owner has paused it. */
  | { readonly step: 'unpaused' }
  /** Putting one disk back as it was before the revert comes next. */
  | { readonly step: 'undoing'; readonly vdev: string };

/** `at`: when it was noted, milliseconds since 1970. */
export type RevertStep = RevertEvent & { readonly at: number };

export interface RevertHead extends JournalHead {
  readonly kind: 'revert';
  /** The journal's own path; it cannot be derived from `memoryPath`. */
  readonly journal: string;
  readonly memoryPath: string;
  /** The cfgfile, if it is known. */
  readonly configPath?: string | undefined;
  /** The options that were given. */
  readonly options: RevertFlags;
  /** State that the domain is to have. */
  readonly state: 'running' | 'paused';
  /** The highest directory that was made for the journal, if any. */
  readonly madeDirectory?: string | undefined;
  /** The domain that it destroys, if one runs: it may have another uuid or name than the snapshot's. */
  readonly destroys?: Pick<DomainState, 'uuid' | 'name'> | undefined;
  /** In the names of safety tags and files of this revert. */
  readonly mark: string;
  readonly disks: readonly RevertDisk[];
}

/** Options of a revert that matter to whoever continues it. */
export interface RevertFlags {
  readonly running: boolean;
  readonly force: boolean;
  readonly accept: readonly RiskName[];
  readonly keep: boolean;
}

export type RevertJournal = Journal<RevertStep>;

/** Adds the current time to a step. */
export function withTime(event: RevertEvent): RevertStep {
  return { ...event, at: Date.now() };
}

/**
 * The note that what is about to take a disk's place is there. For images of QEMU it has the form that it has always had: an
 * earlier version may have to read it.
 * @param made what it is known by
 */
export function madeStep({ kind, vdev }: RevertDisk, made: string): RevertEvent {
  switch (kind) {
    case 'internal':
      return { step: 'tagged', vdev };
    case 'external':
      return { step: 'fresh', vdev, inode: Number(made) };
    case 'storage':
      return { step: 'made', vdev, made };
  }
}

/** What `madeStep` has noted, by vdev. */
export function madeBySteps(steps: readonly RevertStep[]): ReadonlyMap<string, string> {
  const made = new Map<string, string>();
  for (const step of steps) {
    if (step.step === 'tagged') made.set(step.vdev, 'tagged');
    if (step.step === 'fresh') made.set(step.vdev, String(step.inode));
    if (step.step === 'made') made.set(step.vdev, step.made);
  }
  return made;
}

/** End of the names of these journals, behind the uuid of the snapshot's domain. */
export const REVERT_JOURNAL = '.revert.journal';

/** Returns the path of a domain's revert journal. */
export function revertJournalPath(snapshotDir: string, uuid: string): string {
  return join(snapshotDir, `${uuid}${REVERT_JOURNAL}`);
}

/**
 * Creates the journal of a new revert, and waits until it is on disk.
 * @throws {OutputError} If it already exists, or cannot be created
 */
export async function openRevertJournal(
  path: string,
  plan: RevertPlan,
  rest: Pick<RevertHead, 'configPath' | 'options' | 'destroys' | 'madeDirectory' | 'mark'>,
): Promise<RevertJournal> {
  const { memoryPath, state, disks } = plan;
  const head: RevertHead = { ...makeHead('revert', plan), journal: path, memoryPath, state, disks, ...rest };
  return await Journal.createDurably(path, head, path);
}

/**
 * Reads the journal of a revert.
 * @throws {JournalError} If it is damaged, or was moved
 */
export async function toRevertJournal(
  path: string,
  lines: JournalLines,
): Promise<FoundSteps<RevertHead, RevertStep>> {
  const { common, fields } = readHead(path, lines.head, 'revert');
  const mark = fields.text('mark');
  if (!/^[0-9a-z-]+$/.test(mark)) throw fields.error('mark', 'has invalid characters');
  const options = fields.fields('options');
  const head: RevertHead = {
    ...common,
    journal: fields.text('journal'),
    memoryPath: fields.text('memoryPath'),
    configPath: fields.optional('configPath', (key) => fields.text(key)),
    options: {
      running: options.raw('running') === true,
      force: options.raw('force') === true,
      accept: toRiskNames(options.raw('accept')),
      keep: options.raw('keep') === true,
    },
    state: fields.oneOf('state', ['running', 'paused']),
    madeDirectory: fields.optional('madeDirectory', (key) => fields.text(key)),
    destroys: fields.optional('destroys', (key) => toDestroyed(fields.fields(key))),
    mark,
    disks: fields.list('disks').map(toRevertDisk),
  };
  await checkPlace(path, head.journal);
  return { path, head, ...toSteps(lines, head, toStep) };
}

function toDestroyed(fields: Fields): Pick<DomainState, 'uuid' | 'name'> {
  return { uuid: fields.text('uuid'), name: fields.text('name') };
}

/** Reads the accepted risks: earlier versions wrote none, a later one may know more. */
function toRiskNames(value: unknown): readonly RiskName[] {
  if (!Array.isArray(value)) return [];
  return value.filter((name): name is RiskName => typeof name === 'string' && isRiskName(name));
}

function toRevertDisk(fields: Fields): RevertDisk {
  const disk = toSnapshotDisk(fields);
  if (disk.kind !== 'external') return disk;
  const replaced = fields.optional('replaced', (key) => fields.text(key));
  if (replaced !== undefined && replaced !== disk.overlay) {
    throw fields.error('replaced', 'is not the overlay');
  }
  return { ...disk, replaced };
}

function toStep(line: Readonly<Record<string, unknown>>): RevertStep | undefined {
  const { step, at, vdev, inode, domid, made } = line;
  if (typeof at !== 'number') return undefined;
  switch (step) {
    case 'tagged':
    case 'undoing':
      return typeof vdev === 'string' ? { step, at, vdev } : undefined;
    case 'fresh':
      return typeof vdev === 'string' && typeof inode === 'number' ? { step, at, vdev, inode } : undefined;
    case 'made':
      return typeof vdev === 'string' && typeof made === 'string' ? { step, at, vdev, made } : undefined;
    case 'restored':
      return typeof domid === 'number' ? { step, at, domid } : undefined;
    case 'reverted':
    case 'restoring':
    case 'unpaused':
      return { step, at };
    default:
      return undefined;
  }
}
