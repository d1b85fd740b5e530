/** Recovers from creates, reverts and deletes that were killed: finds their journals, and undoes creates. */

import { readdir, rm, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CallOptions } from '../core/call-options.ts';
import { describeError, EnvironmentError, errnoCode, RecoverError, XlsnapError } from '../core/errors.ts';
import { findByEnding, removeIfPresent, removeReserved, statMaybe } from '../core/files.ts';
import { shellQuote } from '../core/shell-quote.ts';
import type { QemuDisk, SnapshotDisk } from '../memfile/manifest.ts';
import { partialOf } from '../memfile/names.ts';
import type { RecoverRequest, RecoverResult } from './api.ts';
import type { CreateHead, CreateStep } from './create/journal.ts';
import {
  planDiskUndos,
  planPartialUndo,
  planReservationUndo,
  planTextUndo,
  undoDisk,
  undoStored,
} from './create/undo.ts';
import { recoverDelete } from './delete/recover.ts';
import { guestNow } from './guest/gone.ts';
import { type HoldState, isHeld } from './guest/hold.ts';
import { type FoundHold, findHold, findHolds, holdPath } from './guest/hold-record.ts';
import { recoverGuest } from './guest/recover.ts';
import { type Reserved, undoIdleDisk } from './images/idle-disk.ts';
import { type FoundSteps, isOfThisBoot } from './journal/file.ts';
import { journalPathOf, snapshotDirOf } from './naming.ts';
import { Phases } from './phases.ts';
import type { DeviceModel, DomainState, Host } from './ports.ts';
import { type FoundJournal, readJournal } from './read-journal.ts';
import { recoverRevert } from './revert/recover.ts';
import { revertKeys } from './revert/related.ts';
import { planDirectoryUndo, planJournalUndo } from './undo.ts';

/** How long a journal may lack its first line, which is written right after it was created. */
const HEADLESS_MS = 1000;

/**
 * Undoes what is left of a create whose process was killed, or whose host went down: the guest is as it was before, and
 * nothing is left that looks like a snapshot. A complete snapshot stays. After a revert the disks are all as
 * before, or all as at the snapshot; see `RecoverResult`. A delete is finished. May be called any number of times.
 *
 * @throws {DomainError} If the create, revert or delete is still under way (`DOMAIN_BUSY`)
 * @throws {JournalError} If the journal cannot be read, or must not be trusted
 * @throws {RecoverError} If something could not be undone: `undoFailures` says what to do by hand, and the journal stays
 */
export async function recoverSnapshot(
  host: Host,
  request: RecoverRequest,
  options: CallOptions = {},
): Promise<RecoverResult> {
  const path = request.path.endsWith('.journal') ? request.path : journalPathOf(request.path);
  // First, and without reading the journal: its storage may hang while the guest is suspended.
  const held = findHold(host, resolve(path));
  if (held !== undefined) {
    const lock = { what: 'recover', timeoutMs: request.lockTimeoutMs ?? 0 };
    await using _lock = await host.toolstack.lock([held.uuid, held.domain], lock);
    const done = await recoverGuest(host, held, options);
    return await recoverRest(path, done, held, async () => {
      const found = await readJournal(path);
      if (found === undefined) return undefined;
      if (found.kind === 'headless') return await removeHeadless(path);
      if (found.kind === 'create') return await recoverCreate(host, found, options);
      if (found.kind !== 'delete') return undefined;
      // A snapshot whose create could not end everything, and that was deleted since.
      const others = found.head.keys.filter((key) => key !== held.uuid && key !== held.domain);
      await using _others = await host.toolstack.lock(others, lock);
      return await recoverDelete(host, found, options);
    });
  }
  const seen = await readWithHead(path);
  if (seen === undefined) return { journal: path, outcome: 'nothing', undone: [] };
  if (seen.kind === 'headless') return await removeHeadless(path);
  const lock = { what: 'recover', timeoutMs: request.lockTimeoutMs ?? 0 };
  await using _lock = await host.toolstack.lock(keysOf(seen), lock);
  // Its writer may have succeeded while the lock was waited for.
  const found = await readJournal(path);
  switch (found?.kind) {
    case 'create':
      return await recoverCreate(host, found, options);
    case 'revert':
      return await recoverRevert(host, found, options);
    case 'delete':
      return await recoverDelete(host, found, options);
    default:
      return { journal: path, outcome: 'nothing', undone: [] };
  }
}

/** Recovers disks and files by the journal, and adds what was done to the guest before to the result. */
async function recoverRest(
  path: string,
  { undone, failures }: { readonly undone: readonly string[]; readonly failures: readonly string[] },
  held: FoundHold,
  body: () => Promise<RecoverResult | undefined>,
): Promise<RecoverResult> {
  let result: RecoverResult | undefined;
  try {
    result = await body();
  } catch (error) {
    if (!(error instanceof XlsnapError)) throw error;
    error.undone = [...undone, ...error.undone];
    error.undoFailures = [...failures, ...error.undoFailures];
    throw error;
  }
  if (failures.length > 0) {
    const error = new RecoverError(
      'NOT_RECOVERED',
      `could not undo everything that a create left of domain ${held.domain}`,
      { hint: 'undo the rest by hand, or fix the cause and run xlsnap recover again' },
    );
    error.undone = [...undone, ...(result?.undone ?? [])];
    error.undoFailures = failures;
    throw error;
  }
  if (result === undefined)
    return { journal: path, kind: 'create', outcome: 'undone', domain: held.domain, undone };
  return { ...result, undone: [...undone, ...result.undone] };
}

/** Returns what its writer locks, or locked. */
function keysOf(found: Exclude<FoundJournal, { kind: 'headless' }>): readonly string[] {
  if (found.kind === 'delete') return found.head.keys;
  return found.kind === 'revert' ? revertKeys(found.head) : [found.head.uuid, found.head.domain];
}

/**
 * Does the same for every journal below a directory: those of reverts, and of creates and deletes without a
 * `memory_path`.
 * @param directory default: where the host has them
 * @throws {RecoverError} If one of them could not be undone, once all were tried; see `recoverSnapshot`
 */
export async function recoverAll(
  host: Host,
  directory: string = snapshotDirOf(host),
  options: CallOptions = {},
): Promise<readonly RecoverResult[]> {
  const results: RecoverResult[] = [];
  const errors: XlsnapError[] = [];
  // Guests before disks and files: one storage that hangs must not keep the guests of others.
  const held = findHolds(host);
  for (const guest of held) await releaseHeld(host, guest, options);
  const journals = await findJournals(directory, (path, error) => errors.push(toTypedError(error, path)));
  for (const path of new Set([...journals, ...held.map(({ journal }) => journal)])) {
    try {
      results.push(await recoverSnapshot(host, { path }, options));
    } catch (error) {
      errors.push(toTypedError(error, path));
    }
  }
  const [first] = errors;
  if (first === undefined) return results;
  if (errors.length === 1) throw first;
  const error = new RecoverError(
    'NOT_RECOVERED',
    [
      `${errors.length} creates, reverts or deletes could not be recovered:`,
      ...errors.map((error) => `  - ${describeError(error)}`),
    ].join('\n'),
    { hint: 'run xlsnap recover FILE for each of them to see more', data: { recovered: results } },
  );
  error.undone = errors.flatMap(({ undone }) => undone);
  error.undoFailures = errors.flatMap(({ undoFailures }) => undoFailures);
  throw error;
}

/** Releases a held guest. A failure is reported later, when its journal is read. */
async function releaseHeld(host: Host, held: FoundHold, options: CallOptions): Promise<void> {
  try {
    await using _lock = await host.toolstack.lock([held.uuid, held.domain], {
      what: 'recover',
      timeoutMs: 0,
    });
    const phases = new Phases(options);
    await phases.bounded(() => recoverGuest(host, held, options));
  } catch {
    // See above.
  }
}

/** Wraps a file system error about one journal, which must not prevent the others from being recovered. */
function toTypedError(error: unknown, path: string): XlsnapError {
  if (error instanceof XlsnapError) return error;
  return new RecoverError('NOT_RECOVERED', `${path}: ${describeError(error)}`, { cause: error });
}

/**
 * Finds journals on two levels: one directory for each domain.
 * @param failed is called for each directory that cannot be read; the others are
 */
async function findJournals(
  directory: string,
  failed: (path: string, error: unknown) => void,
): Promise<readonly string[]> {
  const found = await findByEnding(journalPathOf(''), [directory], [directory], (path) =>
    readdir(path, { withFileTypes: true }).catch((error: unknown) => {
      if (errnoCode(error) !== 'ENOENT') failed(path, error);
      return [];
    }),
  );
  return [...found].sort();
}

async function readWithHead(path: string): Promise<FoundJournal | undefined> {
  const found = await readJournal(path);
  if (found?.kind !== 'headless') return found;
  await sleep(HEADLESS_MS);
  return await readJournal(path);
}

/** Removes a journal without a first line: nothing but empty files had been created. */
async function removeHeadless(path: string): Promise<RecoverResult> {
  const partial = partialOf(path.slice(0, -'.journal'.length));
  const undone: string[] = [];
  if (await removeIfPresent(partial)) undone.push(`removed ${partial}`);
  await rm(path, { force: true });
  return { journal: path, outcome: 'undone', undone };
}

type FoundCreate = FoundSteps<CreateHead, CreateStep>;

/** What a killed create left behind, and its domain now. */
interface KilledCreate {
  readonly host: Host;
  readonly head: CreateHead;
  readonly phases: Phases;
  /** The domain with that uuid, if it exists. */
  readonly domain: DomainState | undefined;
  /** Whether that is the one whose create was killed, and not a later life of it. */
  readonly same: boolean;
  readonly deviceModel: DeviceModel | undefined;
  /** Why it has none. */
  readonly noQemu: unknown;
}

async function recoverCreate(host: Host, found: FoundCreate, options: CallOptions): Promise<RecoverResult> {
  const { head } = found;
  const steps = sumSteps(found);
  const phases = new Phases(options);
  const whole = await isWhole(head, steps);
  const domid = await host.toolstack.findByUuid(head.uuid);
  const domain = domid === undefined ? undefined : await host.hypervisor.domainState(domid);
  const same = domain !== undefined && domain.domid === head.domid && isOfThisBoot(head);
  if (same && (steps.logDirty || (steps.hold !== undefined && isHeld(steps.hold)))) {
    const { uuid, domain: name } = head;
    const held: FoundHold = {
      path: holdPath(host, found.path),
      journal: found.path,
      domid: head.domid,
      uuid,
      domain: name,
      type: domain.type,
      hold: steps.hold,
      logDirty: steps.logDirty,
    };
    const done = await recoverGuest(host, held, options);
    const rest = {
      ...found,
      steps: found.steps.filter(({ step }) => step !== 'hold' && step !== 'log-dirty'),
    };
    return await recoverRest(found.path, done, held, async () =>
      // The journal stays where it alone says what is left.
      done.failures.length > 0 ? undefined : await recoverCreate(host, rest, options),
    );
  }
  const disksLeft = whole ? [] : leftDisks(head, steps);
  const needsQemu = domain !== undefined && disksLeft.some(({ kind }) => kind !== 'storage');
  let noQemu: unknown;
  const unlessGone = (error: unknown): undefined => {
    // What needs no QEMU is undone all the same.
    noQemu = error;
  };
  await using deviceModel = needsQemu
    ? await host.toolstack.openDeviceModel(domain.domid, {}).catch(unlessGone)
    : undefined;
  const left: KilledCreate = { host, head, phases, domain, same, deviceModel, noQemu };
  planUndos(left, steps, found.path, whole);
  const { undone, failures } = await phases.undo();
  const now = domain === undefined ? undefined : await host.hypervisor.domainState(domain.domid);
  if (failures.length > 0) throw notRecoveredError(left, undone, failures);
  return {
    journal: found.path,
    kind: 'create',
    outcome: whole ? 'whole' : 'undone',
    name: head.name,
    domain: head.domain,
    guest: guestNow(now),
    undone,
  };
}

/** The journal's steps, summed up. */
interface CreateSteps {
  readonly inode: number | undefined;
  readonly logDirty: boolean;
  readonly hold: HoldState | undefined;
  readonly preparing: boolean;
  readonly disks: boolean;
  /** What storages have prepared, by vdev. */
  readonly prepared: ReadonlyMap<string, string>;
  /** Inode numbers of the files that were reserved for overlays, by vdev. */
  readonly reserved: ReadonlyMap<string, number>;
  readonly texts: readonly Extract<CreateStep, { step: 'text' }>[];
  /** A stream's reader has received all of it. */
  readonly whole: boolean;
  readonly undoing: boolean;
  readonly lossy: boolean;
}

function sumSteps({ steps, lossy }: FoundCreate): CreateSteps {
  const last = <Name extends CreateStep['step']>(
    name: Name,
  ): Extract<CreateStep, { step: Name }> | undefined =>
    steps.findLast((step): step is Extract<CreateStep, { step: Name }> => step.step === name);
  return {
    inode: last('opened')?.inode,
    logDirty: last('log-dirty')?.on === true,
    hold: last('hold')?.hold,
    preparing: last('preparing') !== undefined,
    disks: last('disks') !== undefined,
    prepared: new Map(
      steps.flatMap((step) => (step.step === 'prepared' ? [[step.vdev, step.made] as const] : [])),
    ),
    reserved: new Map(
      steps.flatMap((step) => (step.step === 'reserved' ? [[step.vdev, step.inode] as const] : [])),
    ),
    texts: steps.filter((step) => step.step === 'text'),
    whole: last('whole') !== undefined,
    undoing: last('undoing') !== undefined,
    lossy,
  };
}

/** Tells whether the snapshot is complete: the memory file gets its name last. */
async function isWhole(
  { memoryPath }: CreateHead,
  { inode, whole, undoing, lossy }: CreateSteps,
): Promise<boolean> {
  const partial = await statMaybe(partialOf(memoryPath));
  if (undoing || (partial !== undefined && (inode === undefined || partial.ino === inode))) return false;
  if (whole) return true;
  const found = await stat(memoryPath).catch(() => undefined);
  return found !== undefined && (found.ino === inode || (inode === undefined && lossy));
}

/** Registers the undos, in the order of the steps. */
function planUndos(left: KilledCreate, steps: CreateSteps, path: string, whole: boolean): void {
  const { head, phases } = left;
  const { memoryPath, madeDirectory } = head;
  if (!whole && madeDirectory !== undefined) planDirectoryUndo(phases, madeDirectory, memoryPath);
  planJournalUndo(phases, path, memoryPath, {
    keep: () => Promise.resolve(),
    remove: () => rm(path, { force: true }),
  });
  if (!whole) planPartialUndo(phases, memoryPath, () => discard(head, steps));
  if (whole) return;
  planLeftDisks(left, steps);
  for (const { path: text, sha256, inode } of steps.texts) {
    planTextUndo(phases, text, sha256);
    const partial = partialOf(text);
    phases.onUndo(`removed ${partial}`, `rm ${shellQuote(partial)}`, () =>
      removePartial(text, head, { inode, lossy: steps.lossy }),
    );
  }
}

/** Removes the memory file, under either name; never another file. */
async function discard(head: CreateHead, steps: CreateSteps): Promise<boolean> {
  const { memoryPath } = head;
  const { inode } = steps;
  const partial = await removePartial(memoryPath, head, steps);
  const named = await stat(memoryPath).catch(() => undefined);
  if (inode === undefined || named?.ino !== inode) return partial;
  return (await removeIfPresent(memoryPath)) || partial;
}

/** Removes what a file is written as before it is complete. @param noted its inode number, and whether that note may be lost */
async function removePartial(
  path: string,
  { mark }: CreateHead,
  { inode, lossy }: Pick<CreateSteps, 'inode' | 'lossy'>,
): Promise<boolean> {
  const partial = partialOf(path);
  const reserved = await removeReserved(partial, { mark, inode });
  // Earlier versions noted it only afterwards, or not at all.
  const unknown = inode === undefined && (mark === '' || lossy);
  return (unknown && (await removeIfPresent(partial))) || reserved;
}

/** The disks of which there may be a snapshot. Before it is noted that QEMU's come next, a tag or an overlay is another's. */
function leftDisks({ disks }: CreateHead, steps: CreateSteps): readonly SnapshotDisk[] {
  if (steps.disks || steps.lossy) return disks;
  return steps.preparing ? disks.filter(({ kind }) => kind === 'storage') : [];
}

function planLeftDisks(left: KilledCreate, steps: CreateSteps): void {
  const { host, head, phases } = left;
  const { mark } = head;
  for (const disk of steps.preparing || steps.lossy ? head.disks : []) {
    if (disk.kind === 'external') {
      planReservationUndo(phases, disk, { mark, inode: () => steps.reserved.get(disk.vdev) });
    }
  }
  planDiskUndos(phases, host, leftDisks(head, steps), (disk) =>
    disk.kind === 'storage'
      ? undoStored(host, disk, { mark, made: steps.prepared.get(disk.vdev) })
      : undoLeftDisk(left, disk, reservedOf(head, steps, disk)),
  );
}

/** Which file at an overlay's place is the create's own. */
function reservedOf({ mark }: CreateHead, { reserved, lossy }: CreateSteps, { vdev }: QemuDisk): Reserved {
  const inode = reserved.get(vdev);
  // Earlier versions noted none, and without syncs the note may be lost.
  return inode === undefined && (mark === '' || lossy) ? 'unknown' : { inode };
}

/** Undoes one disk's snapshot, as far as it exists: by the domain's QEMU if that has the image, else by qemu-img. */
async function undoLeftDisk(left: KilledCreate, disk: QemuDisk, reserved: Reserved): Promise<boolean> {
  const { host, domain, same, deviceModel } = left;
  const used = deviceModel?.imageOf(disk.vdev);
  const images = disk.kind === 'internal' ? [disk.image] : same ? [disk.overlay, disk.base] : [disk.overlay];
  if (domain !== undefined && left.noQemu !== undefined) {
    throw new EnvironmentError('NO_DEVICE_MODEL', 'its QEMU cannot be reached', { cause: left.noQemu });
  }
  if (domain !== undefined && deviceModel !== undefined && used !== undefined && images.includes(used)) {
    const undone = await undoDisk(host, domain.domid, deviceModel, disk);
    // What QEMU knows of an image that it has open is right; and the guest is stopped in the meantime.
    if (undone || disk.kind === 'internal') return undone;
  }
  // What a guest that kept running has written is in its base by now.
  return await undoIdleDisk(host, disk, { merge: !same, reserved });
}

function notRecoveredError(
  { head, domain }: KilledCreate,
  undone: readonly string[],
  failures: readonly string[],
): RecoverError {
  const error = new RecoverError(
    'NOT_RECOVERED',
    `could not undo everything that the create of "${head.name}" of domain ${head.domain} left`,
    {
      hint: `undo the rest by hand, or fix the cause and run xlsnap recover ${shellQuote(head.memoryPath)} again`,
      domid: domain?.domid,
    },
  );
  error.undone = undone;
  error.undoFailures = failures;
  return error;
}
