/** Takes a snapshot of a domain. */

import { Bitmap } from '../../core/bitmap.ts';
import { PAGE_SIZE } from '../../core/brand.ts';
import type { CallOptions } from '../../core/call-options.ts';
import { DomainError, describeError, EnvironmentError } from '../../core/errors.ts';
import { makeMark } from '../../core/files.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { XenVersion } from '../../core/xen.ts';
import type { CreateRequest, CreateResult, SnapshotPlan } from '../api.ts';
import { checkHeld, domainKeys, lockIdentified } from '../domain-lock.ts';
import { throwFindings } from '../findings.ts';
import { DirtyLog } from '../guest/dirty-log.ts';
import { explainGone } from '../guest/gone.ts';
import { GuestHold } from '../guest/hold.ts';
import type { HoldRecord } from '../guest/hold-record.ts';
import { endLog, planHoldUndo, planLogUndo } from '../guest/undo.ts';
import type { MemoryOutcome } from '../memory/file-saver.ts';
import { PageSurvey } from '../memory/page-survey.ts';
import { Precopy } from '../memory/precopy.ts';
import { type EmulatorState, guestSuffix } from '../memory/prefix-suffix.ts';
import { rehearse } from '../memory/rehearsal.ts';
import { journalPathOf } from '../naming.ts';
import { OutputFile } from '../output/file.ts';
import { StreamOutput } from '../output/stream.ts';
import { Phases } from '../phases.ts';
import type { DeviceModel, DomainState, Guardian, Host } from '../ports.ts';
import { Tracking } from '../track/tracking.ts';
import { finishOutput, removeJournal } from './finish.ts';
import type { CreateJournal } from './journal.ts';
import { type CreateRun, type OpenOutput, openOutput, openRecord, warn } from './open.ts';
import { findDomain, makeCreateContext } from './plan.ts';
import { preflightCreate, refuseSaved } from './preflight.ts';
import { needsDeviceModel, type Taker, takersOf } from './takers.ts';

/** How long noting that everything is being undone may take; the guest runs by then. */
const NOTE_TIMEOUT_MS = 5000;
/** Number of attempts to inform xenstored that the guest runs again. */
const ANNOUNCEMENTS = 3;

/** Plans what `createSnapshot` would do and runs all its checks, without changing anything. Throws as its first phases do. */
export async function planCreate(host: Host, request: CreateRequest): Promise<SnapshotPlan> {
  const context = await makeCreateContext(host, request);
  await preflightCreate(host, context);
  throwFindings(context.findings, context.plan.domid);
  return context.plan;
}

/**
 * Takes a snapshot of a running or paused domain: its memory into a file that `xl restore` accepts, its disks in one
 * transaction at the same instant.
 *
 * Whatever happens, the guest is left as it was (running or paused). If this rejects, no snapshot is left behind and
 * the disks are as before, except for what the error's `undoFailures` lists.
 *
 * @throws {XlsnapError} Before anything is changed: UsageError, DomainError, PreflightError. Once everything is undone:
 * SuspendError, XenCallError, DiskError, OutputError, InterruptedError
 */
export async function createSnapshot(
  host: Host,
  request: CreateRequest,
  options: CallOptions = {},
): Promise<CreateResult> {
  const phases = new Phases(options);
  try {
    // First of all: another operation would change what the plan is based on.
    await using locked = await lockIdentified(
      phases,
      host.toolstack,
      async () => ({ keys: domainKeys(await findDomain(host, request.domain)) }),
      'snapshot-create',
    ).catch((error: unknown) => {
      if (typeof request.guardian === 'object') request.guardian.dismiss();
      throw error;
    });
    // Dismissed once everything is done or undone; needed if this process does not get that far.
    const guardian = guardianOf(request, host, phases);
    try {
      return await createLocked(host, request, options, phases, guardian, locked.keys);
    } finally {
      guardian?.dismiss();
    }
  } catch (error) {
    throw await phases.fail(error);
  }
}

/** Starts the guardian, unless it runs. If it cannot start, the create goes ahead: it only loses its protection against SIGKILL. */
function guardianOf({ guardian }: CreateRequest, host: Host, phases: Phases): Guardian | undefined {
  if (guardian === false) return undefined;
  try {
    return typeof guardian === 'object' ? guardian : host.toolstack.guard();
  } catch (error) {
    phases.reporter.log(
      'warning',
      `cannot start the guardian, which would undo this create if it were killed: ${describeError(error)}`,
    );
    return undefined;
  }
}

async function createLocked(
  host: Host,
  request: CreateRequest,
  options: CallOptions,
  phases: Phases,
  guardian: Guardian | undefined,
  held: readonly string[],
): Promise<CreateResult> {
  const context = await phases.run('plan', async () => {
    const made = await makeCreateContext(host, request);
    checkHeld(held, made.domain);
    return made;
  });
  await phases.run('preflight', async () => {
    await preflightCreate(host, context);
    throwFindings(context.findings, context.plan.domid);
  });
  for (const warning of context.plan.warnings) phases.reporter.log('warning', warning);
  const { domid } = context.domain;
  // Both stay open until everything is undone.
  await using guest = await phases.step(() => host.hypervisor.openGuest(domid));
  await using deviceModel = await phases.step(() => host.toolstack.openDeviceModel(domid, context.config));
  if (deviceModel === undefined && needsDeviceModel(context.plan)) {
    throw new EnvironmentError(
      'NO_DEVICE_MODEL',
      `domain ${context.plan.domain} has no QEMU that can be reached`,
      {
        domid,
        hint: 'is its device model still running?',
      },
    );
  }
  guardian?.watch(journalPathOf(context.journalBase));
  const warnings = [...context.plan.warnings];
  const mark = makeMark();
  const run: CreateRun = {
    host,
    context,
    guest,
    deviceModel,
    options,
    phases,
    warnings,
    mark,
  };
  try {
    return await take(run);
  } catch (error) {
    // First, before anything that may wait for storage or for another program.
    await phases.undoFirst();
    // From here on the file must not count as complete, whatever its name.
    if (run.journal !== undefined) await noteUndoing(phases, run.journal);
    const { domain } = context;
    throw await phases.fail(
      await explainGone(host, domain.domid, error, (cause) => goneError(domain, cause)),
    );
  }
}

/** Notes that everything is being undone; not in this thread, and not for long, since the file system may have failed. */
async function noteUndoing(phases: Phases, journal: CreateJournal): Promise<void> {
  await phases.bounded(() => journal.noteLater({ step: 'undoing' }), NOTE_TIMEOUT_MS).catch(() => {});
}

/** The error of a create whose domain no longer exists. */
function goneError({ name, domid }: DomainState, cause: unknown): DomainError {
  return new DomainError('DOMAIN_GONE', `domain ${name} was destroyed or restarted in the meantime`, {
    cause,
    domid,
    hint: 'xl list shows what is there now',
  });
}

/** Takes the snapshot, phase by phase. Each step that takes effect has registered its undo. */
async function take(run: CreateRun): Promise<CreateResult> {
  const { host, context, guest, deviceModel, phases, options } = run;
  const { plan, domain } = context;
  const xen = await phases.step(() => host.hypervisor.version());
  const opened = await phases.run('open', () => openOutput(run, xen));
  // Right away, so that it is closed whatever fails.
  await using base = opened.base?.base;
  const record = await openRecord(run, opened.journal);
  const takers = takersOf(run, opened.journal);
  // Before the rounds: what the guest writes while this takes its time would be copied while it is stopped.
  if (takers.length > 0) {
    await phases.run('prepare', () => prepareDisks(run, takers, opened.journal));
  }
  const log = new DirtyLog(guest, plan.type === 'hvm' ? deviceModel : undefined);
  const dirty = base && new Bitmap(guest.p2mSize);
  const precopy =
    plan.precopy === undefined
      ? undefined
      : new Precopy(opened.saver, log, guest.p2mSize, plan.precopy, {
          ...options,
          dirty,
          keepLog: plan.tracking,
        });
  const tracking = new Tracking(run, opened, log);
  if (precopy !== undefined) {
    await phases.run('precopy', async () => {
      planLogUndo(phases, host, domain.domid, log, () => record.note({ logDirty: false }));
      record.note({ logDirty: true });
      await tracking.begin(dirty);
      await precopy.run();
    });
  }

  const survey = precopy === undefined ? await phases.step(() => prepareCopy(run, opened)) : undefined;
  if (takers.length > 0) await noteDisks(run, opened.journal);
  if (takers.some(({ flushes }) => flushes)) await phases.run('flush', () => flushDisks(phases, takers));
  // All processes, so that few are left to be looked at while the guest is stopped.
  if (precopy !== undefined) await phases.step(() => checkLogIsOurs(run));
  const hold = new GuestHold(host.hypervisor, domain.domid, (state) => record.note({ hold: state }));
  run.hold = hold;
  const forgetHold = planHoldUndo(phases, plan.state, domain.domid, hold);
  const { signal } = options;
  await phases.run('suspend', () => hold.suspend({ timeoutMs: plan.suspendTimeoutMs, signal }));
  const suspendedAt = performance.now();

  const emulator =
    plan.type === 'hvm' && deviceModel !== undefined
      ? await phases.run('device-model', () => stopMachine(run, hold, deviceModel))
      : undefined;
  // A write that hangs must not keep the guest from being resumed.
  const copying = { releaseOnAbort: true };
  const copied = await phases.run('memory', () => copyRest(run, opened, { precopy, survey }), copying);
  // Written once the guest runs: they complete a stream, and a file's storage may be slow.
  const suffix = await phases.run('contexts', () => guestSuffix(guest, emulator), copying);
  if (takers.length > 0) {
    await phases.run('disks', () => withoutWrites(opened, () => takeDisks(takers, hold)));
  }
  await phases.run('resume', () => resume(hold));
  const downtimeSeconds = (performance.now() - suspendedAt) / 1000;
  forgetHold();

  if (opened.output instanceof OutputFile) opened.output.guestStopped = false;
  // Not earlier, since that would lengthen the downtime.
  const announced = await announce(run, hold);
  let logEnded = plan.tracking || (await stopLog(run, record, log));
  const { memory, newPrefix } = copied;
  if (memory.writtenStopped > 0) warnOfWritten(run, memory.writtenStopped);
  const finished = await phases.run('finish', () =>
    finishOutput(run, opened, { xen, takers, memory, newPrefix, suffix, survey }),
  );
  if (await tracking.keep(memory, finished.checksums)) record.note({ logDirty: false });
  else if (plan.tracking) logEnded = await stopLog(run, record, log);
  await removeJournal(run, opened.journal);
  if (announced && logEnded) record.remove();
  // It shows what `xlsnap recover` can still do.
  else record.close();
  return resultOf(run, { xen, precopy, memory, sizes: finished, downtimeSeconds, tracking });
}

function resultOf(
  { context: { plan }, phases, warnings }: CreateRun,
  taken: {
    readonly xen: XenVersion;
    readonly precopy: Precopy | undefined;
    readonly memory: MemoryOutcome;
    readonly sizes: Pick<CreateResult, 'fileBytes' | 'allocatedBytes'>;
    readonly downtimeSeconds: number;
    readonly tracking: Tracking;
  },
): CreateResult {
  const { xen, precopy, memory, sizes, downtimeSeconds, tracking } = taken;
  return omitUndefined({
    plan,
    xen,
    phases: phases.timings,
    downtimeSeconds,
    totalSeconds: phases.seconds,
    fileBytes: sizes.fileBytes,
    allocatedBytes: sizes.allocatedBytes,
    ...tracking.result(precopy?.rounds),
    pages: memory.pages,
    zeroPages: memory.zeroPages,
    rounds: precopy?.rounds,
    pagesWrittenStopped: precopy === undefined ? undefined : memory.writtenStopped,
    warnings,
  });
}

/**
 * Notes that snapshots of disks come next. While the guest runs, since the journal is on the memory file's file system;
 * whether the disks were taken shows in the images.
 */
async function noteDisks({ phases }: CreateRun, journal: CreateJournal): Promise<void> {
  // After a crash of the host, the first line is what says whose a tag or an overlay is.
  await phases.step(() => journal.synced());
  journal.note({ step: 'disks' });
}

/** Stops the machine of an HVM guest, and reads its device model's state. */
async function stopMachine(
  { host, context }: CreateRun,
  hold: GuestHold,
  deviceModel: DeviceModel,
): Promise<EmulatorState> {
  await hold.stop(deviceModel);
  return {
    context: await deviceModel.saveState(),
    xenstoreData: await host.toolstack.emulatorXenstoreData(context.domain.domid),
  };
}

/** What can be done for a copy of a stopped guest while it still runs. */
async function prepareCopy(
  { guest, context: { tuning }, options: { signal } }: CreateRun,
  { output }: OpenOutput,
): Promise<PageSurvey | undefined> {
  if (output instanceof OutputFile && guest.streamType === 'hvm') await rehearse(guest, { tuning, signal });
  return await PageSurvey.of(guest, signal);
}

/**
 * Copies what is left of the suspended guest's memory: all of it, or what it wrote since the last round.
 * @returns `newPrefix`: what to write in place of the prefix once the guest runs again
 */
async function copyRest(
  run: CreateRun,
  opened: OpenOutput,
  { precopy, survey }: { readonly precopy: Precopy | undefined; readonly survey: PageSurvey | undefined },
): Promise<{ readonly memory: MemoryOutcome; readonly newPrefix: Uint8Array | undefined }> {
  const { guest } = run;
  const { output, saver, makePrefix } = opened;
  if (output instanceof OutputFile) output.guestStopped = true;
  await guest.settle({ mayGrow: precopy === undefined });
  const newPrefix = guest.streamType === 'pv' ? changedPrefix(opened, await makePrefix()) : undefined;
  if (precopy === undefined) {
    await survey?.settle(run.options.signal);
    await saver.copyAll(undefined, survey);
  } else {
    await precopy.finish();
    await checkLogIsOurs(run, { onlyNew: true });
  }
  return { memory: await saver.finish(), newPrefix };
}

/**
 * Finds out whether what comes before a PV guest's pages has changed: it names the frames of the p2m, which the guest may
 * have moved until it was suspended.
 * @throws {DomainError} If it is already in a stream, where nothing can be overwritten
 */
function changedPrefix({ output, prefix }: OpenOutput, now: Uint8Array): Uint8Array | undefined {
  if (Buffer.compare(prefix, now) === 0) return undefined;
  if (output instanceof StreamOutput) {
    throw new DomainError('P2M_MOVED', 'the guest has moved its p2m since the stream began', {
      hint: 'try again, or write the memory to a file',
    });
  }
  return now;
}

/**
 * Checks that no other save has taken over the dirty log: we would have missed the pages that it was given.
 * @throws {DomainError} If one may have
 */
async function checkLogIsOurs(
  { host, context }: CreateRun,
  options: { readonly onlyNew?: boolean } = {},
): Promise<void> {
  await refuseSaved(host.toolstack, context.domain.domid, options);
}

/** Has everything slow done about the disks before the memory is copied. */
async function prepareDisks(
  { phases, context }: CreateRun,
  takers: readonly Taker[],
  journal: CreateJournal,
): Promise<void> {
  // After a crash of the host, the first line is what says whose a volume or a clone is.
  await phases.step(() => journal.synced());
  journal.note({ step: 'preparing' });
  for (const taker of takers) await taker.prepare();
  if (context.plan.live) await flushDisks(phases, takers);
  phases.checkpoint();
}

/** Has what is cached of the disks written out: right before the suspend that takes the least time. */
async function flushDisks(phases: Phases, takers: readonly Taker[]): Promise<void> {
  phases.checkpoint();
  for (const taker of takers) await taker.flush();
}

/** Holds the writes that wait: they may go to the disk that the snapshots of disks, and so the guest, wait for. */
async function withoutWrites({ output }: OpenOutput, body: () => Promise<void>): Promise<void> {
  if (!(output instanceof OutputFile)) return await body();
  output.pauseWrites();
  try {
    await body();
  } finally {
    output.resumeWrites();
  }
}

/** Takes the disk snapshots. */
async function takeDisks(takers: readonly Taker[], hold: GuestHold): Promise<void> {
  for (const taker of takers) {
    // The one before may have taken long.
    await hold.check();
    await taker.take();
  }
}

async function resume(hold: GuestHold): Promise<void> {
  await hold.check();
  await hold.release();
}

/**
 * Informs xenstored that the guest runs. The snapshot is taken by now, so a failure is only a warning.
 * @returns whether xenstored knows
 */
async function announce(run: CreateRun, hold: GuestHold): Promise<boolean> {
  let problem: unknown;
  for (let attempt = 0; attempt < ANNOUNCEMENTS; attempt++) {
    try {
      await run.phases.bounded(() => hold.announce());
      return true;
    } catch (error) {
      problem = error;
    }
  }
  warn(
    run,
    'xenstored was not informed that the guest runs again, so xl may not notice when it shuts down; xlsnap recover ' +
      `informs it: ${describeError(problem)}`,
  );
  return false;
}

/**
 * Turns log-dirty mode off. The snapshot lacks only its name by now, so a failure is only a warning.
 * @returns whether there was nothing to warn of
 */
async function stopLog(run: CreateRun, record: HoldRecord, log: DirtyLog): Promise<boolean> {
  if (!log.on) return true;
  const { host, context, phases } = run;
  try {
    const { warning } = await phases.bounded(() => endLog(host, context.domain.domid, log));
    record.note({ logDirty: false });
    if (warning === undefined) return true;
    warn(run, warning);
  } catch (error) {
    warn(
      run,
      `log-dirty mode could not be turned off, so the guest is a little slower: ${describeError(error)}`,
    );
  }
  return false;
}

/** Warns of the one case in which a live create waits for the file while the guest is stopped. */
function warnOfWritten(run: CreateRun, pages: number): void {
  const mib = Math.ceil((pages * PAGE_SIZE) / 1024 ** 2);
  warn(
    run,
    `${mib} MiB of memory were written while the guest was stopped, since dom0 had no memory to hold them until it ` +
      'ran again',
  );
}
