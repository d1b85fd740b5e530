/** Undoes or completes a revert whose process was killed. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { CallOptions } from '../../core/call-options.ts';
import { describeError, RecoverError } from '../../core/errors.ts';
import { statMaybe } from '../../core/files.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { RecoverResult } from '../api.ts';
import { guestNow } from '../guest/gone.ts';
import { refuseUsed, userOf } from '../images/chain.ts';
import { type FoundSteps, isOfThisBoot, Journal } from '../journal/file.ts';
import { Phases } from '../phases.ts';
import type { DomainState, Host } from '../ports.ts';
import { planDirectoryUndo, planJournalUndo } from '../undo.ts';
import { revertCommand } from './command.ts';
import { madeBySteps, type RevertHead, type RevertJournal, type RevertStep, withTime } from './journal.ts';
import { planRevertDiskUndo } from './kept.ts';
import { giveUpByHand, stepsOf, type Way, wayOf } from './ways.ts';

/** How long to wait for a qemu-img whose xlsnap was killed. */
const WORKER_MS = 30_000;
const POLL_MS = 100;
/** How long it may have kept writing: as long as our own time-out. */
const STEP_MS = 300_000;

/** What a killed revert left behind. */
interface KilledRevert {
  readonly host: Host;
  readonly head: RevertHead;
  readonly ways: readonly Way[];
  readonly done: RevertSteps;
  readonly journal: RevertJournal;
  readonly phases: Phases;
  /** The domain with that uuid, if it exists. */
  readonly domain: DomainState | undefined;
}

/**
 * Undoes what is left of a revert whose process was killed, or whose restore failed. If the domain was restored, what was
 * kept of its former disks is removed, and it is unpaused if it should run. If not, all disks are then as before the revert.
 * The caller holds the domain's lock.
 *
 * @param how `keepUsed`: where all disks are as at the snapshot, and a domain uses them or has written to them since, they
 * stay so, and what they were before is kept under its own name: another revert is about to begin
 * @throws {RecoverError} If something could not be undone; the journal stays
 */
export async function recoverRevert(
  host: Host,
  found: FoundSteps<RevertHead, RevertStep>,
  options: CallOptions,
  { keepUsed = false }: { readonly keepUsed?: boolean } = {},
): Promise<RecoverResult> {
  const { head, path } = found;
  const done = sumSteps(found);
  const phases = new Phases(options);
  const sameBoot = isOfThisBoot(head);
  const unknown = sameBoot && done.restoring && done.restored === undefined;
  const domain = unknown ? await waitForRestorer(host, head) : await findRestored(host, head);
  // The domain that the killed restore has built, or has started to build: which of the two cannot be seen.
  const halfBuilt = unknown && domain?.paused === true;
  const journal = await Journal.reopen<RevertStep>(path);
  await using _open = { [Symbol.asyncDispose]: () => journal.keep() };
  const ways = head.disks.map((disk) => wayOf(host, disk));
  const left: KilledRevert = { host, head, ways, done, journal, phases, domain };
  // It stays, so that the next recover or revert knows what that domain is.
  if (!halfBuilt) {
    if (head.madeDirectory !== undefined) planDirectoryUndo(phases, head.madeDirectory, path);
    planJournalUndo(phases, path, path, journal);
  }
  const whole = done.restored !== undefined;
  const stays = done.reverted && !whole && (halfBuilt || (keepUsed && (await isUsed(left))));
  const kept = whole ? await planRemovals(left) : stays ? await findKept(left) : [];
  if (!whole && !stays) {
    // All of them or none: they are of one instant.
    if (done.reverted) await refuseChanged(left);
    planDiskUndos(left);
  }
  const back = sameBoot && domain !== undefined && domain.domid === done.restored;
  if (back && domain.paused && head.state === 'running' && !done.unpaused) {
    phases.onUndo('unpaused the domain', `xl unpause ${domain.domid}`, () =>
      host.hypervisor.unpause(domain.domid),
    );
  }
  const { undone, failures } = await phases.undo();
  if (failures.length > 0) throw notRecoveredError(left, undone, failures);
  const now = domain === undefined ? undefined : await host.hypervisor.domainState(domain.domid);
  const next = whole ? undefined : commandOf(head);
  return omitUndefined({
    journal: path,
    kind: 'revert' as const,
    outcome: whole ? ('whole' as const) : stays ? ('reverted' as const) : ('undone' as const),
    name: head.name,
    domain: head.domain,
    guest: guestNow(now),
    undone,
    kept,
    halfBuilt: halfBuilt ? domain?.domid : undefined,
    next,
  });
}

/** The journal's steps, summed up. */
interface RevertSteps {
  /** What was made to take a disk's place, by vdev. */
  readonly made: ReadonlyMap<string, string>;
  readonly reverted: boolean;
  readonly restoring: boolean;
  /** Domid of the restored domain. */
  readonly restored: number | undefined;
  readonly unpaused: boolean;
  readonly lossy: boolean;
  /** When the last step was noted that may have written to that disk, ms since 1970. */
  readonly last: (vdev: string) => number;
}

function sumSteps({ steps, lossy, head }: FoundSteps<RevertHead, RevertStep>): RevertSteps {
  const at = (name: RevertStep['step']): number => steps.findLastIndex(({ step }) => step === name);
  const begun = Date.parse(head.created);
  const newest = (some: readonly RevertStep[]): number => Math.max(begun, ...some.map((step) => step.at));
  return {
    made: madeBySteps(steps),
    // Undone after that: writing the note was what failed.
    reverted: at('reverted') > at('undoing'),
    restoring: at('restoring') >= 0,
    restored: steps.findLast((step) => step.step === 'restored')?.domid,
    unpaused: at('unpaused') >= 0,
    lossy,
    last: (vdev) => newest(steps.filter((step) => step.step !== 'undoing' || step.vdev === vdev)),
  };
}

/** Finds the domain with the snapshot's uuid, if it exists. */
async function findRestored(
  { toolstack, hypervisor }: Host,
  head: RevertHead,
): Promise<DomainState | undefined> {
  const domid = await toolstack.findByUuid(head.uuid);
  return domid === undefined ? undefined : await hypervisor.domainState(domid);
}

/**
 * Waits until the restore that the dead process started has built the domain, or has exited: it would open the disks.
 * @returns the domain, if it is there
 * @throws {RecoverError} If it takes too long
 */
async function waitForRestorer(host: Host, head: RevertHead): Promise<DomainState | undefined> {
  const deadline = performance.now() + WORKER_MS;
  for (;;) {
    // In this order: the domain may appear in between.
    const pid = await host.toolstack.restorer?.(head.memoryPath, head.uuid);
    const domain = await findRestored(host, head);
    if (domain !== undefined || pid === undefined) return domain;
    if (performance.now() > deadline) {
      throw new RecoverError(
        'RESTORE_BUSY',
        `a restore (pid ${pid}) is still working on ${head.memoryPath}`,
        {
          hint: 'wait until it exits, or kill it, then run the same command again',
        },
      );
    }
    await sleep(POLL_MS);
  }
}

/** Registers one undo for each disk, so that one that fails does not prevent the others. */
function planDiskUndos(left: KilledRevert): void {
  for (const way of left.ways) {
    planRevertDiskUndo(left.phases, way, left.head.mark, () => putBack(left, way));
  }
}

async function putBack({ host, head, done, journal }: KilledRevert, way: Way): Promise<boolean> {
  const { vdev } = way.disk;
  // Without its note, it may have been made all the same.
  const made = done.made.get(vdev) ?? (done.lossy ? 'unknown' : undefined);
  return await way.undoRevert(stepsOf(host, way, head.mark), made, async () => {
    await refuseWritten(way.image, done.last(vdev), giveUpByHand(way, head.mark, head.journal));
    journal.noteMaybe(withTime({ step: 'undoing', vdev }));
  });
}

/**
 * Refuses to put back an image that was written to since: a domain that was started on it may have written what is to be kept.
 * @param since when the last step was noted that wrote there, ms since 1970
 * @throws {RecoverError} If it was written to
 */
async function refuseWritten(image: string, since: number, how: string): Promise<void> {
  const written = await findWritten(image, since);
  if (written === undefined) return;
  throw new RecoverError(
    'IMAGE_WRITTEN',
    `${image} was written to at ${written.toISOString()}, after the revert: was a domain started on it? ` +
      `To keep what it holds now: ${how}`,
  );
}

/** Finds when an image was written to after a revert had finished with it, if it was. */
async function findWritten(image: string, since: number): Promise<Date | undefined> {
  const found = await statMaybe(image);
  if (found === undefined) return undefined;
  // The time of a device says nothing.
  return found.isFile() && found.mtimeMs > since + STEP_MS ? found.mtime : undefined;
}

/**
 * Checks that all disks, which are as at the snapshot, can be put back as they were before.
 * @throws {RecoverError} If one cannot
 */
async function refuseChanged(left: KilledRevert): Promise<void> {
  const { host, head, done } = left;
  const failures: string[] = [];
  for (const way of left.ways) {
    const { vdev } = way.disk;
    try {
      await refuseUsed(host, way.image);
      await refuseWritten(way.image, done.last(vdev), giveUpByHand(way, head.mark, head.journal));
    } catch (error) {
      failures.push(`disk ${vdev}: ${describeError(error)}`);
    }
  }
  if (failures.length > 0) throw notRecoveredError(left, [], failures);
}

/** Tells whether a program uses a disk that is as at the snapshot, or has written to it since. */
async function isUsed({ host, ways, done }: KilledRevert): Promise<boolean> {
  for (const { image, disk } of ways) {
    if ((await userOf(host, image)) !== undefined) return true;
    if ((await findWritten(image, done.last(disk.vdev))) !== undefined) return true;
  }
  return false;
}

/** Finds what exists of the disks as they were before. */
async function findKept({ ways, head }: KilledRevert): Promise<readonly string[]> {
  const kept: string[] = [];
  for (const way of ways) {
    const former = await way.former(head.mark);
    if (former !== undefined) kept.push(former.where);
  }
  return kept;
}

/**
 * Registers the removal of what was kept of the former disks.
 * @returns the files that stay
 */
async function planRemovals({ phases, head, ways, domain }: KilledRevert): Promise<readonly string[]> {
  const kept: string[] = [];
  for (const way of ways) {
    const former = await way.former(head.mark);
    if (former === undefined) continue;
    if (head.options.keep && former.mayStay) {
      kept.push(former.where);
      continue;
    }
    const byHand = giveUpByHand(way, head.mark, head.journal);
    phases.onUndo(former.removed, former.mayStay ? byHand : `with the domain down, ${byHand}`, () =>
      way.forget(head.mark, domain?.domid),
    );
  }
  return kept;
}

/** The command line that continues it, if the cfgfile is known. */
function commandOf({ domain, configPath, options }: RevertHead): string | undefined {
  if (configPath === undefined) return undefined;
  return revertCommand({ domain, config: { source: configPath }, ...options });
}

function notRecoveredError(
  { head, domain, done, journal }: KilledRevert,
  undone: readonly string[],
  failures: readonly string[],
): RecoverError {
  const state = done.reverted
    ? 'its disks are as at the snapshot'
    : 'some of its disks may be as at the snapshot and others as before: do not start it like this';
  const error = new RecoverError(
    'NOT_RECOVERED',
    `could not undo everything that the revert of domain ${head.domain} to "${head.name}" left; ${state}`,
    {
      hint: `undo the rest by hand, or fix the cause and run xlsnap recover ${shellQuote(journal.path)} again`,
      domid: domain?.domid,
    },
  );
  error.undone = undone;
  error.undoFailures = failures;
  return error;
}
