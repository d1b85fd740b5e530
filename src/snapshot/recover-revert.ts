import { rename, rm, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Domid } from '../core/brand.ts';
import { DiskError, EnvironmentError, RecoverError } from '../core/errors.ts';
import { shellQuote } from '../core/shell-quote.ts';
import { undoDirectory, undoJournal } from './create-undo.ts';
import { guestNow } from './guest-now.ts';
import { refuseUsed, truePath, userOf } from './image-chain.ts';
import { bootId, type FoundSteps, Journal } from './journal-file.ts';
import { type RevertHead, type RevertJournal, type RevertStep, stamped } from './journal-revert.ts';
import { exists, removed } from './output-file.ts';
import { Phases } from './phases.ts';
import type { DomainState, Host } from './ports.ts';
import { revertCommand } from './revert-command.ts';
import { asidePath, freshPath, safetyTag, undoRevertDisk } from './revert-names.ts';
import type { CallOptions, RecoverResult, RevertDisk } from './types.ts';

/** How long a qemu-img whose xlsnap was killed is waited for. */
const WORKER_MS = 30_000;
const POLL_MS = 100;
/** How long it may have gone on writing: as long as ours would have let it. */
const STEP_MS = 300_000;

type Internal = Extract<RevertDisk, { kind: 'internal' }>;
type External = Extract<RevertDisk, { kind: 'external' }>;

/** What was found. */
interface Left {
  readonly host: Host;
  readonly head: RevertHead;
  readonly done: Done;
  readonly journal: RevertJournal;
  readonly phases: Phases;
  /** The domain of that uuid, if it lives. */
  readonly domain: DomainState | undefined;
  /** It is what the killed restore has made, or has begun to make: which of them cannot be seen. */
  readonly halfBuilt: boolean;
}

/**
 * Undoes what a revert has left whose process is gone: where not all disks were as at the snapshot yet, all are as
 * before then. Where they were, they stay so, and what was kept of their former state goes; a domain that was restored
 * runs if it was to. The caller holds the domain's lock.
 *
 * @throws RecoverError when something could not be undone; the journal stays
 */
export async function recoverRevert(
  host: Host,
  found: FoundSteps<RevertHead, RevertStep>,
  options: CallOptions,
): Promise<RecoverResult> {
  const { head, path } = found;
  const done = summed(found);
  const phases = new Phases(options);
  const domid = await host.toolstack.findByUuid(head.uuid);
  const domain = domid === undefined ? undefined : await host.hypervisor.domainState(domid);
  const sameBoot = head.boot === bootId();
  const unknown = sameBoot && done.restoring && done.restored === undefined;
  const halfBuilt = unknown && domain?.paused === true;
  const journal = await Journal.reopen<RevertStep>(path);
  const left: Left = { host, head, done, journal, phases, domain, halfBuilt };
  // Stays, so that whoever comes next knows what that domain is.
  if (!halfBuilt) {
    if (head.madeDirectory !== undefined) undoDirectory(phases, head.madeDirectory, path);
    undoJournal(phases, path, path, journal);
  }
  const kept = done.reverted ? await planCleaning(left) : planPuttingBack(left);
  const back = sameBoot && domain !== undefined && domain.domid === done.restored;
  if (back && domain.paused && head.state === 'running' && !done.unpaused) {
    phases.onUndo('let the domain run', `xl unpause ${domain.domid}`, () =>
      host.hypervisor.unpause(domain.domid),
    );
  }
  const { undone, failures } = await phases.undo();
  await journal.keep();
  if (failures.length > 0) throw notRecovered(left, undone, failures);
  const now = domain === undefined ? undefined : await host.hypervisor.domainState(domain.domid);
  const whole = done.restored !== undefined;
  const next = whole ? undefined : commandOf(head);
  return {
    journal: path,
    kind: 'revert',
    outcome: whole ? 'whole' : done.reverted ? 'reverted' : 'undone',
    name: head.name,
    domain: head.domain,
    guest: guestNow(now),
    undone,
    kept,
    ...(halfBuilt ? { halfBuilt: domain?.domid } : {}),
    ...(next === undefined ? {} : { next }),
  };
}

/** What the steps come to. */
interface Done {
  readonly tagged: ReadonlySet<string>;
  /** Inode numbers of the fresh overlays, by vdev. */
  readonly fresh: ReadonlyMap<string, number>;
  readonly reverted: boolean;
  readonly restoring: boolean;
  /** Domid of the restored domain. */
  readonly restored: number | undefined;
  readonly unpaused: boolean;
  readonly lossy: boolean;
  /** When the last step was noted that may have written to that disk, ms since 1970. */
  readonly last: (vdev: string) => number;
}

function summed({ steps, lossy, head }: FoundSteps<RevertHead, RevertStep>): Done {
  const at = (name: RevertStep['step']): number => steps.findLastIndex(({ step }) => step === name);
  const begun = Date.parse(head.created);
  const newest = (some: readonly RevertStep[]): number => Math.max(begun, ...some.map((one) => one.at));
  return {
    tagged: new Set(steps.flatMap((one) => (one.step === 'tagged' ? [one.vdev] : []))),
    fresh: new Map(steps.flatMap((one) => (one.step === 'fresh' ? [[one.vdev, one.inode] as const] : []))),
    // Undone after that: the note itself was what failed.
    reverted: at('reverted') > at('undoing'),
    restoring: at('restoring') >= 0,
    restored: steps.findLast((one) => one.step === 'restored')?.domid,
    unpaused: at('unpaused') >= 0,
    lossy,
    last: (vdev) => newest(steps.filter((one) => one.step !== 'undoing' || one.vdev === vdev)),
  };
}

/**
 * What the dead process has started must be over before anybody looks at what it has done.
 * @throws RecoverError
 */
async function waitForWorker({ images }: Host, path: string): Promise<void> {
  const deadline = performance.now() + WORKER_MS;
  for (let pid = await images.worker(path); pid !== undefined; pid = await images.worker(path)) {
    if (performance.now() > deadline) {
      throw new RecoverError('IMAGE_BUSY', `qemu-img (pid ${pid}) still works on ${path}`);
    }
    await sleep(POLL_MS);
  }
}

/** Each disk has its own undo, so that one that fails does not keep the others from theirs. */
function planPuttingBack(left: Left): readonly string[] {
  const { phases, head } = left;
  for (const disk of head.disks) {
    undoRevertDisk(phases, disk, head.mark, () =>
      disk.kind === 'internal' ? putImageBack(left, disk) : putOverlayBack(left, disk),
    );
  }
  return [];
}

async function putImageBack({ host, head, done, journal }: Left, disk: Internal): Promise<boolean> {
  const tag = safetyTag(head.mark);
  await waitForWorker(host, disk.image);
  const info = await host.images.info(disk.image);
  if (info === undefined && done.tagged.has(disk.vdev)) {
    throw new DiskError('NO_IMAGE', `its image ${disk.image} is gone`);
  }
  // Nothing had been done to it, or it has been put back, by hand perhaps.
  if (info?.tags.includes(tag) !== true) return false;
  await refuseUsed(host, disk.image);
  // Until that is noted nothing else was applied.
  if (done.tagged.has(disk.vdev) || done.lossy) {
    const toKeep = `qemu-img snapshot -d ${tag} ${disk.image}`;
    await refuseWritten(disk.image, done.last(disk.vdev), toKeep);
    journal.noteMaybe(stamped({ step: 'undoing', vdev: disk.vdev }));
    await host.images.applyTag(disk.image, tag);
  }
  await host.images.deleteTag(disk.image, tag);
  return true;
}

async function putOverlayBack({ host, head, done, journal }: Left, disk: External): Promise<boolean> {
  const aside = asidePath(disk.overlay, head.mark);
  const fresh = freshPath(disk.overlay, head.mark);
  await waitForWorker(host, fresh);
  const wasFresh = await removed(fresh);
  const there = await stat(disk.overlay).catch(() => undefined);
  const ours =
    there !== undefined &&
    there.ino === done.fresh.get(disk.vdev) &&
    (await host.images.info(disk.overlay))?.backing === disk.base;
  const former = await exists(aside);
  if (former && there !== undefined && !ours) {
    throw new RecoverError('FILE_EXISTS', `${disk.overlay} is another file than the revert made`);
  }
  // Put back already, or somebody would rather have what is there now.
  if (!former && (!ours || disk.replaced !== undefined)) return wasFresh;
  await refuseUsed(host, disk.overlay);
  if (ours) await refuseWritten(disk.overlay, done.last(disk.vdev), `rm ${former ? aside : head.journal}`);
  journal.noteMaybe(stamped({ step: 'undoing', vdev: disk.vdev }));
  if (former) await rename(aside, disk.overlay);
  else await rm(disk.overlay, { force: true });
  return true;
}

/**
 * A domain that was started on such disks meanwhile may have written what somebody wants to keep.
 * @param since when the last step was noted that wrote there, ms since 1970
 * @throws RecoverError
 */
async function refuseWritten(image: string, since: number, toKeep: string): Promise<void> {
  const found = await stat(image);
  // A device does not tell.
  if (!found.isFile() || found.mtimeMs <= since + STEP_MS) return;
  throw new RecoverError(
    'IMAGE_WRITTEN',
    `${image} was written to at ${found.mtime.toISOString()}, after the revert: was a domain started on it? ` +
      `To keep what it holds now: ${toKeep}`,
  );
}

/** @returns the files that stay */
async function planCleaning(left: Left): Promise<readonly string[]> {
  const { phases, head } = left;
  const kept: string[] = [];
  for (const disk of head.disks) {
    if (disk.kind === 'internal') {
      const tag = safetyTag(head.mark);
      phases.onUndo(
        `removed the safety tag of disk ${disk.vdev}`,
        `with the domain down, qemu-img snapshot -d ${tag} ${disk.image}`,
        () => removeTag(left, disk, tag),
      );
      continue;
    }
    const aside = asidePath(disk.overlay, head.mark);
    if (!head.options.keep) phases.onUndo(`removed ${aside}`, `rm ${aside}`, () => removed(aside));
    else if (await exists(aside)) kept.push(aside);
  }
  return kept;
}

/** By the QEMU that has the image open, if that is the domain's. */
async function removeTag({ host, domain, halfBuilt }: Left, disk: Internal, tag: string): Promise<boolean> {
  await waitForWorker(host, disk.image);
  if ((await host.images.info(disk.image))?.tags.includes(tag) !== true) return false;
  // Its QEMU may open the image any moment.
  if (halfBuilt) throw new RecoverError('IMAGE_IN_USE', 'the domain that is being restored may use it');
  const user = await userOf(host, disk.image);
  const own = user !== undefined && (await truePath(user.path)) === (await truePath(disk.image));
  if (own && domain !== undefined && user.domid === domain.domid) {
    return await removeByQemu(host, domain.domid, disk, tag);
  }
  await refuseUsed(host, disk.image);
  await host.images.deleteTag(disk.image, tag);
  return true;
}

/** @returns whether it was there: QEMU knows better than the file */
async function removeByQemu(host: Host, domid: Domid, { vdev }: Internal, tag: string): Promise<boolean> {
  await using deviceModel = await host.toolstack.openDeviceModel(domid, {});
  if (deviceModel === undefined) throw new EnvironmentError('NO_DEVICE_MODEL', 'its QEMU cannot be reached');
  return (await deviceModel.undoSnapshots([{ kind: 'internal', vdev, tag }])).length > 0;
}

/** The command line that continues it, if the cfgfile is known. */
function commandOf({ domain, configPath, options }: RevertHead): string | undefined {
  if (configPath === undefined) return undefined;
  return revertCommand({ domain, config: { source: configPath }, ...options });
}

function notRecovered(
  { head, domain, done, journal }: Left,
  undone: readonly string[],
  failures: readonly string[],
): RecoverError {
  const state = done.reverted
    ? 'its disks are as at the snapshot'
    : 'some of its disks may be as at the snapshot and others as before: do not start it so';
  const error = new RecoverError(
    'NOT_RECOVERED',
    `not all could be undone that the revert of domain ${head.domain} to "${head.name}" has left; ${state}`,
    {
      hint: `do by hand what was not undone, or remove its cause, then run xlsnap recover ${shellQuote(journal.path)} again`,
      ...(domain === undefined ? {} : { domid: domain.domid }),
    },
  );
  error.undone = undone;
  error.undoFailures = failures;
  return error;
}
