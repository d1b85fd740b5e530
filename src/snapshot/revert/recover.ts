/** Undoes or completes a revert whose process was killed. */

import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CallOptions } from '../../core/call-options.ts';
import { DiskError, describeError, RecoverError } from '../../core/errors.ts';
import { exists, removeIfPresent, statMaybe } from '../../core/files.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { RecoverResult, RevertDisk } from '../api.ts';
import { guestNow } from '../guest/gone.ts';
import { baseOfOverlay, refuseUsed, userOf } from '../images/chain.ts';
import { freeImages } from '../images/free.ts';
import { type FoundSteps, isOfThisBoot, Journal } from '../journal/file.ts';
import { Phases } from '../phases.ts';
import type { DomainState, Host } from '../ports.ts';
import { storageOf } from '../storage/find.ts';
import { planDirectoryUndo, planJournalUndo } from '../undo.ts';
import { revertCommand } from './command.ts';
import { deleteSafetyTag } from './delete-safety-tag.ts';
import { stepsOf } from './disks.ts';
import { type RevertHead, type RevertJournal, type RevertStep, withTime } from './journal.ts';
import { planRevertDiskUndo } from './kept.ts';
import { asidePath, freshPath, safetyTag } from './names.ts';
import { changedImage } from './users.ts';

/** How long to wait for a qemu-img whose xlsnap was killed. */
const WORKER_MS = 30_000;
const POLL_MS = 100;
/** How long it may have kept writing: as long as our own time-out. */
const STEP_MS = 300_000;

type Internal = Extract<RevertDisk, { kind: 'internal' }>;
type External = Extract<RevertDisk, { kind: 'external' }>;

/** What a killed revert left behind. */
interface KilledRevert {
  readonly host: Host;
  readonly head: RevertHead;
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
  const left: KilledRevert = { host, head, done, journal, phases, domain };
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
  readonly tagged: ReadonlySet<string>;
  /** Inode numbers of the fresh overlays, by vdev. */
  readonly fresh: ReadonlyMap<string, number>;
  /** What storages have made, by vdev. */
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
    tagged: new Set(steps.flatMap((step) => (step.step === 'tagged' ? [step.vdev] : []))),
    fresh: new Map(
      steps.flatMap((step) => (step.step === 'fresh' ? [[step.vdev, step.inode] as const] : [])),
    ),
    made: new Map(steps.flatMap((step) => (step.step === 'made' ? [[step.vdev, step.made] as const] : []))),
    // Undone after that: writing the note was what failed.
    reverted: at('reverted') > at('undoing'),
    restoring: at('restoring') >= 0,
    restored: steps.findLast((step) => step.step === 'restored')?.domid,
    unpaused: at('unpaused') >= 0,
    lossy,
    last: (vdev) => newest(steps.filter((step) => step.step !== 'undoing' || step.vdev === vdev)),
  };
}

/**
 * Waits for what the dead process started: it must have finished before its results are looked at.
 * @throws {RecoverError} If it takes too long
 */
export async function waitForWorker({ images }: Host, path: string): Promise<void> {
  const deadline = performance.now() + WORKER_MS;
  for (let pid = await images.worker(path); pid !== undefined; pid = await images.worker(path)) {
    if (performance.now() > deadline) {
      throw new RecoverError('IMAGE_BUSY', `qemu-img (pid ${pid}) is still working on ${path}`);
    }
    await sleep(POLL_MS);
  }
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
  const { phases, head } = left;
  for (const disk of head.disks) {
    planRevertDiskUndo(phases, left.host, disk, head.mark, () => putBack(left, disk));
  }
}

async function putBack(left: KilledRevert, disk: RevertDisk): Promise<boolean> {
  switch (disk.kind) {
    case 'internal':
      return await putImageBack(left, disk);
    case 'external':
      return await putOverlayBack(left, disk);
    case 'storage':
      return await putStoredBack(left, disk);
  }
}

async function putStoredBack(
  { host, head, done, journal }: KilledRevert,
  disk: StorageDisk,
): Promise<boolean> {
  const { vdev, image } = disk;
  const steps = stepsOf(host, disk, head.mark);
  return await storageOf(host, disk).undoRevert(disk, steps, done.made.get(vdev), async () => {
    await refuseWritten(image, done.last(vdev), toKeep(host, disk, head));
    journal.noteMaybe(withTime({ step: 'undoing', vdev }));
  });
}

async function putImageBack({ host, head, done, journal }: KilledRevert, disk: Internal): Promise<boolean> {
  const tag = safetyTag(head.mark);
  await waitForWorker(host, disk.image);
  const info = await host.images.info(disk.image, 'qcow2');
  if (info === undefined && done.tagged.has(disk.vdev)) {
    throw new DiskError('NO_IMAGE', `its image ${disk.image} no longer exists`);
  }
  // Nothing had been done to it, or it has been put back, by hand perhaps.
  if (info?.tags.includes(tag) !== true) return false;
  // Before anything is noted.
  await refuseUsed(host, disk.image);
  const free = freeImages(host);
  // Until that is noted nothing else was applied.
  if (done.tagged.has(disk.vdev) || done.lossy) {
    await refuseWritten(disk.image, done.last(disk.vdev), toKeep(host, disk, head));
    journal.noteMaybe(withTime({ step: 'undoing', vdev: disk.vdev }));
    await free.applyTag(disk.image, tag);
  }
  await free.deleteTag(disk.image, tag);
  return true;
}

async function putOverlayBack({ host, head, done, journal }: KilledRevert, disk: External): Promise<boolean> {
  const aside = asidePath(disk.overlay, head.mark);
  const fresh = freshPath(disk.overlay, head.mark);
  await waitForWorker(host, fresh);
  const wasFresh = await removeIfPresent(fresh);
  const there = await stat(disk.overlay).catch(() => undefined);
  const ours =
    there !== undefined &&
    there.ino === done.fresh.get(disk.vdev) &&
    (await baseOfOverlay(host.images, disk.overlay)) === disk.base;
  const former = await exists(aside);
  if (former && there !== undefined && !ours) {
    throw new RecoverError('FILE_EXISTS', `${disk.overlay} is not the file that the revert created`);
  }
  // Put back already, or replaced on purpose by what is there now.
  if (!former && (!ours || disk.replaced !== undefined)) return wasFresh;
  const free = freeImages(host);
  await refuseUsed(host, disk.overlay);
  if (ours) await refuseWritten(disk.overlay, done.last(disk.vdev), toKeep(host, disk, head));
  journal.noteMaybe(withTime({ step: 'undoing', vdev: disk.vdev }));
  if (former) await free.rename(aside, disk.overlay);
  else await free.remove(disk.overlay);
  return true;
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
  for (const disk of head.disks) {
    const image = changedImage(disk);
    try {
      await refuseUsed(host, image);
      await refuseWritten(image, done.last(disk.vdev), toKeep(host, disk, head));
    } catch (error) {
      failures.push(`disk ${disk.vdev}: ${describeError(error)}`);
    }
  }
  if (failures.length > 0) throw notRecoveredError(left, [], failures);
}

/** Says how to keep what a disk holds now, and give up its former content. */
function toKeep(host: Host, disk: RevertDisk, { mark, journal }: RevertHead): string {
  if (disk.kind === 'storage') return storageOf(host, disk).byHand(disk, 'forget', mark);
  if (disk.kind === 'internal') return `qemu-img snapshot -d ${safetyTag(mark)} ${shellQuote(disk.image)}`;
  return `rm ${shellQuote(disk.replaced === undefined ? journal : asidePath(disk.overlay, mark))}`;
}

/** Tells whether a program uses a disk that is as at the snapshot, or has written to it since. */
async function isUsed({ host, head, done }: KilledRevert): Promise<boolean> {
  for (const disk of head.disks) {
    const image = changedImage(disk);
    if ((await userOf(host, image)) !== undefined) return true;
    if ((await findWritten(image, done.last(disk.vdev))) !== undefined) return true;
  }
  return false;
}

/** Finds what exists of the disks as they were before. */
async function findKept({ host, head }: KilledRevert): Promise<readonly string[]> {
  const kept: string[] = [];
  for (const disk of head.disks) {
    if (disk.kind === 'storage') {
      const former = await storageOf(host, disk).former(disk, head.mark);
      if (former !== undefined) kept.push(former);
    } else if (disk.kind === 'internal') {
      const tag = safetyTag(head.mark);
      const info = await host.images.info(disk.image, 'qcow2');
      if (info?.tags.includes(tag) === true) kept.push(`snapshot ${tag} of ${disk.image}`);
    } else {
      const aside = asidePath(disk.overlay, head.mark);
      if (await exists(aside)) kept.push(aside);
    }
  }
  return kept;
}

/**
 * Registers the removal of what was kept of the former disks.
 * @returns the files that stay
 */
async function planRemovals(left: KilledRevert): Promise<readonly string[]> {
  const { host, phases, head } = left;
  const kept: string[] = [];
  for (const disk of head.disks) {
    if (disk.kind === 'storage') {
      const storage = storageOf(host, disk);
      const former = await storage.former(disk, head.mark);
      if (former === undefined) continue;
      if (head.options.keep) kept.push(former);
      else {
        phases.onUndo(`removed ${former}`, storage.byHand(disk, 'forget', head.mark), () =>
          storage.forget(disk, head.mark),
        );
      }
      continue;
    }
    if (disk.kind === 'internal') {
      const tag = safetyTag(head.mark);
      phases.onUndo(
        `removed the safety tag of disk ${disk.vdev}`,
        `with the domain down, qemu-img snapshot -d ${tag} ${shellQuote(disk.image)}`,
        () => removeTag(left, disk, tag),
      );
      continue;
    }
    const aside = asidePath(disk.overlay, head.mark);
    if (!head.options.keep)
      phases.onUndo(`removed ${aside}`, `rm ${shellQuote(aside)}`, () => removeIfPresent(aside));
    else if (await exists(aside)) kept.push(aside);
  }
  return kept;
}

/** @returns whether it was there */
async function removeTag({ host, domain }: KilledRevert, disk: Internal, tag: string): Promise<boolean> {
  await waitForWorker(host, disk.image);
  if ((await host.images.info(disk.image, 'qcow2'))?.tags.includes(tag) !== true) return false;
  return await deleteSafetyTag(host, domain?.domid, { ...disk, tag });
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
