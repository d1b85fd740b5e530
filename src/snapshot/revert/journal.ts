/**
 * The journal of a revert. It is not beside the memory file, for that may be where nobody can write. Each line is on the
 * disk before what comes after it takes effect: the guest is gone already, and does not wait.
 */
import { join } from 'node:path';
import { checkedDisk } from '../../memfile/manifest.ts';
import type { RevertDisk, RevertPlan } from '../api.ts';
import {
  badJournal,
  checkPlace,
  type FoundSteps,
  HeadFields,
  Journal,
  type JournalHead,
  type JournalLines,
  makeHead,
  toSteps,
} from '../journal/file.ts';
import type { DomainState } from '../ports.ts';
import { isRiskName, type RiskName } from '../risks.ts';

/** What a revert has come to. */
export type RevertEvent =
  /** The safety tag is in the image; the snapshot's is applied now. */
  | { readonly step: 'tagged'; readonly vdev: string }
  /** The fresh overlay is there, with this inode number; it takes its place now. */
  | { readonly step: 'fresh'; readonly vdev: string; readonly inode: number }
  /** All disks are as at the snapshot, and stay so. */
  | { readonly step: 'reverted' }
  /** The domain is restored now. */
  | { readonly step: 'restoring' }
  /** It is there, paused. */
  | { readonly step: 'restored'; readonly domid: number }
  /** It was made to run: if it is paused, that was its owner. */
  | { readonly step: 'unpaused' }
  /** One disk is put back now as it was before the revert. */
  | { readonly step: 'undoing'; readonly vdev: string };

/** `at`: when it was noted, milliseconds since 1970. */
export type RevertStep = RevertEvent & { readonly at: number };

export interface RevertHead extends JournalHead {
  readonly kind: 'revert';
  /** Its own path: it is in no other place of which `memoryPath` would tell. */
  readonly journal: string;
  readonly memoryPath: string;
  /** The cfgfile, if it is known. */
  readonly configPath?: string;
  /** The options that were given. */
  readonly options: RevertWords;
  /** State that the domain is to have. */
  readonly state: 'running' | 'paused';
  /** The highest directory that was made for the journal, if any. */
  readonly madeDirectory?: string;
  /** The domain that it destroys, if one runs: it may have another uuid or name than the snapshot's. */
  readonly destroys?: Pick<DomainState, 'uuid' | 'name'>;
  /** In the names of safety tags and files of this revert. */
  readonly mark: string;
  readonly disks: readonly RevertDisk[];
}

/** Options of a revert that matter to whoever continues it. */
export interface RevertWords {
  readonly running: boolean;
  readonly force: boolean;
  readonly accept: readonly RiskName[];
  readonly keep: boolean;
}

export type RevertJournal = Journal<RevertStep>;

/** What happens now. */
export function stamped(event: RevertEvent): RevertStep {
  return { ...event, at: Date.now() };
}

/** End of the names of these journals, behind the uuid of the snapshot's domain. */
export const REVERT_JOURNAL = '.revert.journal';

/** The journal of a revert to a snapshot of the domain with that uuid. */
export function revertJournalPath(snapshotDir: string, uuid: string): string {
  return join(snapshotDir, `${uuid}${REVERT_JOURNAL}`);
}

/**
 * Makes the journal of a revert that begins; it is on the disk then.
 * @throws OutputError when there is one already, or it cannot be made
 */
export async function openRevertJournal(
  path: string,
  plan: RevertPlan,
  rest: Pick<RevertHead, 'configPath' | 'options' | 'destroys' | 'madeDirectory' | 'mark'>,
): Promise<RevertJournal> {
  const { memoryPath, state, disks } = plan;
  const head: RevertHead = { ...makeHead('revert', plan), journal: path, memoryPath, state, disks, ...rest };
  const journal = await Journal.create<RevertStep>(path, head, { recover: path, sync: true });
  try {
    await journal.synced();
  } catch (error) {
    await journal.remove();
    throw error;
  }
  return journal;
}

/** @throws JournalError */
export async function toRevertJournal(
  path: string,
  lines: JournalLines,
): Promise<FoundSteps<RevertHead, RevertStep>> {
  const fields = new HeadFields(path, lines.head);
  const mark = fields.text('mark');
  if (!/^[0-9a-z-]+$/.test(mark)) throw fields.damaged('mark has invalid characters');
  const state = fields.text('state');
  if (state !== 'running' && state !== 'paused') throw fields.damaged('state is unknown');
  const options = fields.record('options');
  const head: RevertHead = {
    ...fields.common('revert'),
    journal: fields.text('journal'),
    memoryPath: fields.text('memoryPath'),
    ...(lines.head['configPath'] === undefined ? {} : { configPath: fields.text('configPath') }),
    options: {
      running: options['running'] === true,
      force: options['force'] === true,
      accept: toRiskNames(options['accept']),
      keep: options['keep'] === true,
    },
    state,
    ...(lines.head['madeDirectory'] === undefined ? {} : { madeDirectory: fields.text('madeDirectory') }),
    ...(lines.head['destroys'] === undefined ? {} : { destroys: toIdentity(fields) }),
    mark,
    disks: fields.disks(checkedRevertDisk),
  };
  await checkPlace(path, head.journal);
  return { path, head, ...toSteps(lines, head, toStep) };
}

/** @throws JournalError */
function toIdentity(fields: HeadFields): Pick<DomainState, 'uuid' | 'name'> {
  const { uuid, name } = fields.record('destroys');
  if (typeof uuid !== 'string' || typeof name !== 'string') throw fields.damaged('destroys is not a domain');
  return { uuid, name };
}

/** Earlier versions wrote none; a later one may know more. */
function toRiskNames(value: unknown): readonly RiskName[] {
  if (!Array.isArray(value)) return [];
  return value.filter((name): name is RiskName => typeof name === 'string' && isRiskName(name));
}

function checkedRevertDisk(path: string, what: string, value: unknown): RevertDisk {
  const disk = checkedDisk(path, what, value);
  if (disk.kind === 'internal') return disk;
  const replaced = (value as { readonly replaced?: unknown }).replaced;
  if (replaced !== undefined && replaced !== disk.overlay) throw badJournal(path, `${what}.replaced`);
  return { ...disk, replaced };
}

function toStep(line: Readonly<Record<string, unknown>>): RevertStep | undefined {
  const { step, at, vdev, inode, domid } = line;
  if (typeof at !== 'number') return undefined;
  switch (step) {
    case 'tagged':
    case 'undoing':
      return typeof vdev === 'string' ? { step, at, vdev } : undefined;
    case 'fresh':
      return typeof vdev === 'string' && typeof inode === 'number' ? { step, at, vdev, inode } : undefined;
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
