/** Takes a snapshot of a domain. */
import { dirname } from 'node:path';
import { PAGE_SIZE } from '../../core/brand.ts';
import type { CallOptions } from '../../core/call-options.ts';
import {
  DomainError,
  describeError,
  EnvironmentError,
  InterruptedError,
  OutputError,
} from '../../core/errors.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { XenVersion } from '../../core/xen.ts';
import { type Checksums, checksumFile, STRETCH } from '../../memfile/checksums.ts';
import { printLibxlJson } from '../../memfile/libxl-json.ts';
import type { Manifest } from '../../memfile/manifest.ts';
import { roomText, withRoomFor } from '../../memfile/memory-target.ts';
import { replaceConfig } from '../../savefmt/index.ts';
import type { CreateRequest, CreateResult, SnapshotPlan } from '../api.ts';
import { checkHeld, domainKeys, lockIdentified } from '../domain-lock.ts';
import { DirtyLog } from '../guest/dirty-log.ts';
import { GuestHold } from '../guest/hold.ts';
import { HoldRecord } from '../guest/hold-record.ts';
import { explainGone } from '../guest/state.ts';
import { identifyDisk } from '../images/identity.ts';
import { type MemoryOutcome, MemorySaver, type PageSaver } from '../memory/file-saver.ts';
import { Precopy } from '../memory/precopy.ts';
import { type EmulatorState, guestPrefix, guestSuffix } from '../memory/prefix-suffix.ts';
import { StreamSaver } from '../memory/stream-saver.ts';
import { makeDirectory, OutputFile, unmakeDirectory, writeWhole } from '../output/file.ts';
import { StreamOutput } from '../output/stream.ts';
import { Phases } from '../phases.ts';
import type { DeviceModel, DomainState, Guardian, Guest, Host } from '../ports.ts';
import { type CreateJournal, journalPathOf, openCreateJournal } from './journal.ts';
import { type CreateContext, findLiveDomain, makeCreateContext, throwFindings } from './plan.ts';
import { beingSaved, preflightCreate } from './preflight.ts';
import {
  digest,
  endLog,
  toAction,
  undoDirectory,
  undoDisks,
  undoHold,
  undoJournal,
  undoLog,
  undoPartial,
  undoRecord,
  undoTakenDisk,
  undoText,
} from './undo.ts';

/** How long noting that everything is being undone may take; the guest runs by then. */
const NOTE_TIMEOUT_MS = 5000;
/** How long to wait, with the guest stopped, for another program that holds the stored configuration. */
const CONFIG_LOCK_MS = 2000;
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
 * @throws UsageError, DomainError, PreflightError before anything is changed; SuspendError, XenCallError, DiskError,
 * OutputError, InterruptedError, each after undoing
 */
export async function createSnapshot(
  host: Host,
  request: CreateRequest,
  options: CallOptions = {},
): Promise<CreateResult> {
  const phases = new Phases(options);
  try {
    // First of all: another create or revert would change what the plan is based on.
    await using locked = await lockIdentified(
      phases,
      host.toolstack,
      async () => ({ keys: domainKeys(await findLiveDomain(host, request.domain)) }),
      'snapshot-create',
    );
    // Dismissed once everything is done or undone; needed if this process does not get that far.
    const guardian = request.guardian === false ? undefined : findGuardian(host, phases);
    try {
      return await createLocked(host, request, options, phases, guardian, locked.keys);
    } finally {
      guardian?.dismiss();
    }
  } catch (error) {
    throw await phases.fail(error);
  }
}

/** Starts the guardian. If it cannot start, the create goes ahead: it only loses its protection against SIGKILL. */
function findGuardian(host: Host, phases: Phases): Guardian | undefined {
  try {
    return host.toolstack.guard();
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
  if (deviceModel === undefined && (context.plan.type === 'hvm' || context.plan.disks.length > 0)) {
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
  const parts: Parts = { host, context, guest, deviceModel, options, phases };
  try {
    return await take(parts);
  } catch (error) {
    // First, before anything that may wait for storage or for another program.
    await phases.undoFirst();
    // From here on the file must not count as complete, whatever its name.
    if (parts.journal !== undefined) await noteUndoing(phases, parts.journal);
    const { domain } = context;
    throw await phases.fail(
      await explainGone(host, domain.domid, error, (cause) => goneError(domain, cause)),
    );
  }
}

interface Parts {
  readonly host: Host;
  readonly context: CreateContext;
  readonly guest: Guest;
  readonly deviceModel: DeviceModel | undefined;
  readonly options: CallOptions;
  readonly phases: Phases;
  /** Set once it is open. */
  journal?: CreateJournal;
  record?: HoldRecord;
  hold?: GuestHold;
  /** The highest directory that was created for it, if any. */
  made?: string | undefined;
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

/** What writes the memory, and the journal. */
interface Opened {
  readonly journal: CreateJournal;
  readonly output: OutputFile | StreamOutput;
  readonly saver: PageSaver;
  /** Everything that comes before the pages. */
  readonly prefix: Uint8Array;
}

async function take(parts: Parts): Promise<CreateResult> {
  const { host, context, guest, deviceModel, phases, options } = parts;
  const { plan, domain, config } = context;
  const { domid } = domain;
  const limits = options.signal === undefined ? {} : { signal: options.signal };
  const xen = await phases.step(() => host.hypervisor.version());

  const makePrefix = () => guestPrefix(guest, printLibxlJson(config), xen);
  const opened = await phases.run('open', async (): Promise<Opened> => {
    const journal = await openJournal(parts);
    const prefix = await makePrefix();
    const saving = {
      ...limits,
      reporter: phases.reporter,
      expectedPages: domain.memoryBytes / PAGE_SIZE,
      ...(context.tuning === undefined ? {} : { tuning: context.tuning }),
      spareMemory: host.spareMemory,
    };
    if (plan.stream) {
      const stream = await openStream(parts);
      await stream.writeAt(prefix, 0);
      return {
        journal,
        output: stream,
        prefix,
        saver: new StreamSaver(guest, stream, prefix.length, saving),
      };
    }
    const file = await openFile(parts, journal);
    await file.writeAt(prefix, 0);
    return {
      journal,
      output: file,
      prefix,
      saver: new MemorySaver(guest, file, prefix.length, saving),
    };
  });
  const { journal, output, saver } = opened;
  const record = openRecord(parts, journal);
  const log = new DirtyLog(guest, plan.type === 'hvm' ? deviceModel : undefined);
  const precopy =
    plan.precopy === undefined ? undefined : new Precopy(saver, log, guest.p2mSize, plan.precopy, options);
  if (precopy !== undefined) await phases.run('precopy', () => runPrecopy(parts, record, log, precopy));

  const hold = new GuestHold(host.hypervisor, domid, (state) => record.note({ hold: state }));
  parts.hold = hold;
  // While the guest runs, since the journal is on the memory file's file system. Whether the disks were taken shows in the images.
  if (plan.disks.length > 0) {
    // After a crash of the host, the first line is what says whose a tag or an overlay is.
    await phases.step(() => journal.synced());
    journal.note({ step: 'disks' });
  }
  const released = undoHold(phases, plan.state, domid, hold);
  await phases.run('suspend', () => hold.suspend({ timeoutMs: plan.suspendTimeoutMs, ...limits }));
  const suspendedAt = performance.now();

  let emulator: EmulatorState | undefined;
  if (plan.type === 'hvm' && deviceModel !== undefined) {
    emulator = await phases.run('device-model', async () => {
      await hold.stop(deviceModel);
      return {
        context: await deviceModel.saveState(),
        xenstoreData: await host.toolstack.emulatorXenstoreData(domid),
      };
    });
  }

  // A write that hangs must not keep the guest from being resumed.
  const copying = { releaseOnAbort: true };
  if (output instanceof OutputFile) output.guestStopped = true;
  let settled: Uint8Array | undefined;
  const memory = await phases.run(
    'memory',
    async () => {
      await guest.settle({ mayGrow: precopy === undefined });
      if (guest.streamType === 'pv') settled = settlePrefix(opened, await makePrefix());
      if (precopy === undefined) await saver.copyAll();
      else {
        await precopy.finish();
        await ownLog(parts);
      }
      return await saver.finish();
    },
    copying,
  );
  // Written once the guest runs: they complete a stream, and a file's storage may be slow.
  const suffix = await phases.run('contexts', () => guestSuffix(guest, emulator), copying);

  if (deviceModel !== undefined && plan.disks.length > 0) {
    await phases.run('disks', async () => {
      await hold.check();
      await snapshotDisks(parts, deviceModel);
    });
  }

  await phases.run('resume', async () => {
    await hold.check();
    await hold.release();
  });
  const downtimeSeconds = (performance.now() - suspendedAt) / 1000;
  released();
  if (output instanceof OutputFile) output.guestStopped = false;
  // Not earlier, since that would lengthen the downtime.
  const warnings = [
    ...plan.warnings,
    ...(await announce(parts, hold)),
    ...(await stopLog(parts, record, log)),
  ];
  const allUndone = warnings.length === plan.warnings.length;
  if (memory.writtenStopped > 0) warnings.push(tellWritten(parts, memory.writtenStopped));

  const sizes = await phases.run('finish', async () => {
    warnings.push(...(await makeRoom(parts, opened, memory.populated)));
    return output instanceof OutputFile
      ? await finishFile(parts, opened, output, xen, memory, { settled, suffix })
      : await finishStream(parts, journal, output, suffix);
  });
  await removeJournal(parts, journal);
  if (allUndone) record.remove();
  // It shows what `xlsnap recover` can still do.
  else record.close();
  return {
    plan,
    xen,
    phases: phases.timings,
    downtimeSeconds,
    totalSeconds: phases.seconds,
    ...sizes,
    pages: memory.pages,
    zeroPages: memory.zeroPages,
    ...(precopy === undefined ? {} : { rounds: precopy.rounds }),
    ...(precopy === undefined || plan.stream ? {} : { pagesWrittenStopped: memory.writtenStopped }),
    warnings,
  };
}

/** Warns about the one case in which a live create waits for the file while the guest is stopped. */
function tellWritten({ phases }: Parts, pages: number): string {
  const mib = Math.ceil((pages * PAGE_SIZE) / 1024 ** 2);
  const warning =
    `${mib} MiB were written to the memory file while the guest was stopped, since dom0 had no memory to hold them until it ` +
    'ran again';
  phases.reporter.log('warning', warning);
  return warning;
}

/**
 * Updates what comes before a PV guest's pages: it names the frames of the p2m, which the guest may have moved until it was suspended.
 * @returns what to write in its place once the guest runs again
 * @throws {DomainError} If it is already in a stream, where nothing can be overwritten
 */
function settlePrefix({ output, prefix }: Opened, settled: Uint8Array): Uint8Array | undefined {
  if (Buffer.compare(prefix, settled) === 0) return undefined;
  if (output instanceof StreamOutput) {
    throw new DomainError('P2M_MOVED', 'the guest has moved its p2m since the stream began', {
      hint: 'try again, or write the memory to a file',
    });
  }
  return settled;
}

async function runPrecopy(
  { host, context, phases }: Parts,
  record: HoldRecord,
  log: DirtyLog,
  precopy: Precopy,
): Promise<void> {
  undoLog(phases, host, context.domain.domid, log, () => record.note({ logDirty: false }));
  record.note({ logDirty: true });
  await log.start();
  await precopy.run();
}

/** Checks that no other save has taken over the dirty log: we would have missed the pages that it was given. */
async function ownLog({ host, context }: Parts): Promise<void> {
  const { domid } = context.domain;
  const pid = await host.toolstack.saver(domid);
  if (pid === undefined) return;
  const { code, message, hint } = beingSaved(pid);
  throw new DomainError(code, message, { domid, ...(hint === undefined ? {} : { hint }) });
}

/** Informs xenstored that the guest runs. The snapshot is taken by now, so a failure is only a warning. */
async function announce({ phases }: Parts, hold: GuestHold): Promise<readonly string[]> {
  let problem: unknown;
  for (let attempt = 0; attempt < ANNOUNCEMENTS; attempt++) {
    try {
      await phases.bounded(() => hold.announce());
      return [];
    } catch (error) {
      problem = error;
    }
  }
  const warning =
    'xenstored was not informed that the guest runs again, so xl may not notice when it shuts down; xlsnap recover ' +
    `informs it: ${describeError(problem)}`;
  phases.reporter.log('warning', warning);
  return [warning];
}

/** Turns log-dirty mode off. The snapshot lacks only its name by now, so a failure is only a warning. */
async function stopLog(
  { host, context, phases }: Parts,
  record: HoldRecord,
  log: DirtyLog,
): Promise<readonly string[]> {
  if (!log.on) return [];
  try {
    const { warning } = await phases.bounded(() => endLog(host, context.domain.domid, log));
    record.note({ logDirty: false });
    if (warning === undefined) return [];
    phases.reporter.log('warning', warning);
    return [warning];
  } catch (error) {
    const warning = `log-dirty mode could not be turned off, so the guest is a little slower: ${describeError(error)}`;
    phases.reporter.log('warning', warning);
    return [warning];
  }
}

/** What has been written cannot be undone, but no restore accepts an unfinished stream. */
async function openStream({ context, phases, options }: Parts): Promise<StreamOutput> {
  const { plan, sink } = context;
  const stream =
    sink === undefined
      ? await StreamOutput.open(plan.memoryPath, options.signal)
      : StreamOutput.of(sink, options.signal);
  phases.onUndo('left the stream unfinished', 'discard what was read from it', () => stream.discard());
  return stream;
}

/** Creates the journal beside the memory file; for a stream, where its file would be. */
async function openJournal(parts: Parts): Promise<CreateJournal> {
  const { phases } = parts;
  const { plan, journalBase } = parts.context;
  const made = await makeDirectory(dirname(journalBase));
  if (made !== undefined) undoDirectory(phases, made, journalBase);
  parts.made = made;
  const journal = await openCreateJournal(plan, journalBase, made);
  parts.journal = journal;
  undoJournal(phases, journal.path, journalBase, journal);
  return journal;
}

/** Creates the record, on tmpfs, of what has been done to the guest. */
function openRecord(parts: Parts, journal: CreateJournal): HoldRecord {
  const { host, context, phases } = parts;
  const { domid, uuid, name } = context.domain;
  const { type } = context.plan;
  const record = HoldRecord.create(host, { journal: journal.path, domid, uuid, domain: name, type });
  parts.record = record;
  undoRecord(phases, domid, record, async () => parts.hold?.announce());
  return record;
}

async function openFile({ context, phases }: Parts, journal: CreateJournal): Promise<OutputFile> {
  const { memoryPath } = context.plan;
  const file = await OutputFile.create(memoryPath);
  undoPartial(phases, memoryPath, () => file.discard(phases.hanging));
  journal.note({ step: 'opened', inode: await file.inode() });
  return file;
}

/** Removes the journal. The snapshot is complete, so a failure is only a warning. */
async function removeJournal({ phases, context, made }: Parts, journal: CreateJournal): Promise<void> {
  try {
    // Its storage may hang; a complete snapshot is reported all the same.
    const remove = async (): Promise<void> => {
      await journal.remove();
      // There is nothing else in it.
      if (context.plan.stream && made !== undefined)
        await unmakeDirectory(dirname(context.journalBase), made);
    };
    await phases.step(() => phases.bounded(remove));
  } catch (error) {
    const by = `xlsnap recover ${shellQuote(context.journalBase)} removes it`;
    phases.reporter.log('warning', `${journal.path} is still there (${describeError(error)}): ${by}`);
  }
}

/** Takes the disk snapshots. This is the commit point: the transaction takes all disks or none. */
async function snapshotDisks({ context, host, phases }: Parts, deviceModel: DeviceModel): Promise<void> {
  const { disks } = context.plan;
  const { domid } = context.domain;
  // Before, not after: if QEMU fails half-way, they may have been taken.
  undoDisks(phases, disks, (disk) => undoTakenDisk(host, domid, deviceModel, disk));
  await deviceModel.snapshotDisks(disks.map(toAction));
  phases.checkpoint();
  const overlays = disks.flatMap((disk) =>
    disk.kind === 'external' ? [{ vdev: disk.vdev, path: disk.overlay, format: 'qcow2' }] : [],
  );
  // While the guest is stopped: it must never run with a configuration that names the base.
  if (overlays.length > 0) {
    await host.toolstack.repointDisks(domid, overlays, { lockTimeoutMs: CONFIG_LOCK_MS });
  }
}

/** Completes the files, with the guest running again. The memory file gets its name last: from then on the snapshot is complete. */
async function finishFile(
  parts: Parts,
  { journal, saver }: Opened,
  file: OutputFile,
  xen: XenVersion,
  memory: MemoryOutcome,
  { settled, suffix }: { readonly settled: Uint8Array | undefined; readonly suffix: Uint8Array },
): Promise<{ fileBytes: number; allocatedBytes: number }> {
  const { plan, tuning } = parts.context;
  const { sync } = plan;
  if (settled !== undefined) await file.writeAt(settled, 0);
  await file.writeAt(suffix, memory.end);
  await saver.writeKept();
  const sizes = await file.sizes();
  // The disk is the slowest part.
  if (sync) file.beginSync();
  const checksums =
    tuning?.checksums === false ? undefined : await readBack(parts, file, sizes.fileBytes, memory.start);
  await writeBeside(parts, journal, xen, { bytes: sizes.fileBytes, pages: memory.pages }, checksums);
  await file.commit({ sync });
  return sizes;
}

/** Raises the memory target of the configuration in the file, if the file has more memory than that. */
async function makeRoom(
  { context, phases }: Parts,
  { output, prefix }: Opened,
  pages: number,
): Promise<readonly string[]> {
  const { config } = context;
  const roomy = withRoomFor(config, pages);
  if (roomy === undefined) return [];
  const header = output instanceof OutputFile ? replaceConfig(prefix, printLibxlJson(roomy)) : undefined;
  const then =
    header === undefined
      ? 'snapshot-revert handles this; a plain xl restore needs a configuration with more memory'
      : 'a revert restores it with that as its target; then set it again with xl mem-set';
  const warning = `${roomText(config, pages)}: ${then}`;
  if (header !== undefined) await output.writeAt(header, 0);
  phases.reporter.log('warning', warning);
  return [warning];
}

/** Completes a stream, with the guest running again. Its last bytes complete the snapshot. */
async function finishStream(
  { context, phases }: Parts,
  journal: CreateJournal,
  stream: StreamOutput,
  suffix: Uint8Array,
): Promise<{ fileBytes: number; allocatedBytes: number }> {
  await stream.writeLast(suffix);
  phases.shield();
  // The reader has it all the same; after a crash of the host, only this line says so.
  if (context.plan.sync) await phases.bounded(() => journal.noteDurably({ step: 'whole' })).catch(() => {});
  else journal.noteMaybe({ step: 'whole' });
  await stream.commit({ sync: context.plan.sync });
  return await stream.sizes();
}

/** Writes the manifest and the cfgfile. */
async function writeBeside(
  { context, host, phases }: Parts,
  journal: CreateJournal,
  xen: XenVersion,
  memory: { readonly bytes: number; readonly pages: number },
  checksums: Checksums | undefined,
): Promise<void> {
  const { plan } = context;
  const identities = await Promise.all(plan.disks.map((disk) => identifyDisk(host, disk)));
  const manifest: Manifest = {
    format: 'xlsnap-manifest',
    version: 1,
    name: plan.name,
    description: plan.description,
    created: new Date().toISOString(),
    state: plan.state,
    domain: plan.domain,
    uuid: plan.uuid,
    type: plan.type,
    xen,
    memory: { path: plan.memoryPath, ...memory },
    ...(checksums === undefined ? {} : { checksums }),
    disks: plan.disks,
    identities: identities.filter((one) => one !== undefined),
    uncovered: plan.uncovered,
    ...(plan.unknownDrives.length === 0 ? {} : { unknownDrives: plan.unknownDrives }),
    ...(context.qemu === undefined ? {} : { qemu: context.qemu }),
    phases: phases.timings,
  };
  const write = async (path: string, text: string): Promise<void> => {
    phases.checkpoint();
    journal.note({ step: 'text', path, sha256: digest(text) });
    // After, not before: another program's file of that name stays.
    await writeWhole(path, text);
    undoText(phases, path, digest(text));
  };
  if (plan.manifestPath !== undefined) {
    await write(plan.manifestPath, `${JSON.stringify(manifest, null, 2)}\n`);
  }
  if (plan.configPath !== undefined) await write(plan.configPath, context.configText);
}

/** Reads the file back for its checksums. Not while copying: that would lengthen the downtime, and live, pages are written several times. */
async function readBack(
  { host, phases, options }: Parts,
  file: OutputFile,
  size: number,
  head: number,
): Promise<Checksums> {
  try {
    return await checksumFile(
      file.fd,
      size,
      { head, stretch: STRETCH },
      {
        signal: options.signal,
        extents: host.extents,
        progress: (done) => phases.reporter.progress({ phase: 'finish', done, total: size, unit: 'bytes' }),
      },
    );
  } catch (cause) {
    if (cause instanceof InterruptedError) throw cause;
    throw new OutputError('OUTPUT_READ', `cannot read ${file.partialPath} back`, {
      cause,
      hint: 'check the file system: is it failing?',
    });
  }
}
