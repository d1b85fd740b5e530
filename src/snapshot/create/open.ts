/** Opens what a create writes to: its journal, the memory file or stream, and the record of what is done to the guest. */

import { dirname } from 'node:path';
import type { Bitmap } from '../../core/bitmap.ts';
import { PAGE_SIZE } from '../../core/brand.ts';
import type { CallOptions } from '../../core/call-options.ts';
import { dirtyRoom } from '../../core/dirty-room.ts';
import { OutputError } from '../../core/errors.ts';
import { makeDirectory } from '../../core/files.ts';
import type { XenVersion } from '../../core/xen.ts';
import { printLibxlJson } from '../../memfile/libxl-json.ts';
import type { FullCopy } from '../api.ts';
import type { GuestHold } from '../guest/hold.ts';
import { HoldRecord, removeStaleHold } from '../guest/hold-record.ts';
import { planRecordUndo } from '../guest/undo.ts';
import { FileSaver, type MemoryOptions, type PageSaver } from '../memory/file-saver.ts';
import { guestPrefix } from '../memory/prefix-suffix.ts';
import { StreamSaver } from '../memory/stream-saver.ts';
import { OutputFile } from '../output/file.ts';
import { StreamOutput } from '../output/stream.ts';
import type { Phases } from '../phases.ts';
import type { DeviceModel, Guest, Host } from '../ports.ts';
import { type Base, findBase } from '../track/base.ts';
import { CloneSums } from '../track/clone-sums.ts';
import { planDirectoryUndo, planJournalUndo } from '../undo.ts';
import { type CreateJournal, openCreateJournal } from './journal.ts';
import type { CreateContext } from './plan.ts';
import { planPartialUndo } from './undo.ts';

/**
 * Where a guest has so many times the memory that the page cache takes at once, its pages are written past it: they would wait
 * for the disk anyway, at a fraction of its speed, and push everything else out of memory. With fewer, the page cache lets a
 * guest resume sooner.
 */
const DIRECT_FACTOR = 4;

/** A create once its checks have passed, and what its undo needs of what has been opened so far. */
export interface CreateRun {
  readonly host: Host;
  readonly context: CreateContext;
  readonly guest: Guest;
  readonly deviceModel: DeviceModel | undefined;
  readonly options: CallOptions;
  readonly phases: Phases;
  /** For the result; those of the plan are first. */
  readonly warnings: string[];
  journal?: CreateJournal;
  hold?: GuestHold;
  /** The highest directory that was created for the journal, if any. */
  madeDirectory?: string | undefined;
  /** In the names of files that are being reserved. */
  readonly mark: string;
}

/** What the memory goes to, with its journal. */
export interface OpenOutput {
  readonly journal: CreateJournal;
  readonly output: OutputFile | StreamOutput;
  readonly saver: PageSaver;
  /** The earlier memory file that this one is a clone of, and which pages have places in it. */
  readonly base?: { readonly base: Base; readonly placed: Bitmap } | undefined;
  /** Why it is none, if it could have been one. */
  readonly full?: FullCopy | undefined;
  /** Everything that comes before the pages. */
  readonly prefix: Uint8Array;
  /** Makes the prefix again, of the guest as it is now. */
  readonly makePrefix: () => Promise<Uint8Array>;
}

/** Reports a warning now, and again with the result. */
export function warn({ warnings, phases }: CreateRun, warning: string): void {
  warnings.push(warning);
  phases.reporter.log('warning', warning);
}

/** Creates the journal and what the memory goes to, and writes everything that comes before the pages. */
export async function openOutput(run: CreateRun, xen: XenVersion): Promise<OpenOutput> {
  const { host, context, guest, phases, options } = run;
  const makePrefix = () => guestPrefix(guest, printLibxlJson(context.config), xen);
  const journal = await openJournal(run);
  const prefix = await makePrefix();
  const saving: MemoryOptions = {
    signal: options.signal,
    reporter: phases.reporter,
    expectedPages: context.domain.memoryBytes / PAGE_SIZE,
    tuning: context.tuning,
    spareMemory: host.spareMemory,
  };
  if (context.plan.stream) {
    const output = await openStream(run);
    await output.writeAt(prefix, 0);
    return {
      journal,
      output,
      saver: new StreamSaver(guest, output, prefix.length, saving),
      prefix,
      makePrefix,
    };
  }
  const { output, base, full } = await openFile(run, journal, prefix);
  const saver = new FileSaver(guest, output, prefix.length, saving);
  const based = base && { base, placed: saver.adopt(base.memory) };
  return { journal, output, saver, base: based, full, prefix, makePrefix };
}

/** Creates the journal beside the memory file; for a stream, where its file would be. */
async function openJournal(run: CreateRun): Promise<CreateJournal> {
  const { phases } = run;
  const { plan, journalBase } = run.context;
  const made = await makeDirectory(dirname(journalBase));
  if (made !== undefined) planDirectoryUndo(phases, made, journalBase);
  run.madeDirectory = made;
  const journal = await openCreateJournal(plan, journalBase, made, run.mark);
  run.journal = journal;
  planJournalUndo(phases, journal.path, journalBase, journal);
  return journal;
}

interface OpenedFile {
  readonly output: OutputFile;
  readonly base?: Base;
  readonly full?: FullCopy;
}

/** Creates the memory file with what precedes the pages, as a clone of an earlier one if it can be. */
async function openFile(run: CreateRun, journal: CreateJournal, prefix: Uint8Array): Promise<OpenedFile> {
  const { context, phases, options, host, guest } = run;
  const found = context.mayClone
    ? await findBase(host, context.domain, guest, prefix.length, options.signal)
    : undefined;
  const base = found === undefined || 'full' in found ? undefined : found;
  try {
    const output = await createPartial(run, journal);
    const failure = base && (await cloneBase(host, base, output));
    if (base !== undefined && failure === undefined) {
      const before = new Uint8Array(prefix.length);
      await base.file.read(before, 0, before.length, 0);
      if (Buffer.compare(before, prefix) !== 0) await output.writeAt(prefix, 0);
      return { output, base };
    }
    await base?.[Symbol.asyncDispose]();
    const room = host.dirtyRoom ?? dirtyRoom;
    const { tuning, domain } = context;
    if (tuning?.direct ?? domain.memoryBytes > DIRECT_FACTOR * room()) await output.openDirect();
    await output.writeAt(prefix, 0);
    const full = failure ?? found;
    if (full === undefined || !('full' in full)) return { output };
    // A domain that is tracked from now on was not expected to be tracked.
    if (full.full !== 'NOT_TRACKED') phases.reporter.log('info', `all memory is copied: ${full.message}`);
    return { output, full };
  } catch (error) {
    await base?.[Symbol.asyncDispose]();
    throw error;
  }
}

/** Creates the partial file, and registers its removal, here and in the journal. */
async function createPartial(
  { context, phases, mark }: CreateRun,
  journal: CreateJournal,
): Promise<OutputFile> {
  const { memoryPath } = context.plan;
  const file = await OutputFile.create(memoryPath, {
    mark,
    note: (inode) => journal.note({ step: 'opened', inode }),
  });
  planPartialUndo(phases, memoryPath, () => file.discard(phases.hanging));
  return file;
}

/**
 * Makes the new file a clone of the memory file.
 * @returns why that cannot be; then the new file is empty
 */
async function cloneBase(
  { memoryClones }: Host,
  base: Base,
  output: OutputFile,
): Promise<FullCopy | undefined> {
  try {
    if (memoryClones === undefined) throw new OutputError('CLONE', 'this toolstack cannot clone files');
    // The files that were looked at and created, whatever has their names now.
    await memoryClones.clone(`/proc/self/fd/${base.file.fd}`, `/proc/self/fd/${output.fd}`);
    output.cloneSums = new CloneSums(base.parent);
    return undefined;
  } catch (error) {
    if (!(error instanceof OutputError) || error.code !== 'CLONE') throw error;
    return { full: 'NOT_CLONED', message: error.message };
  }
}

/** Opens the stream. What has been written cannot be undone, but no restore accepts an unfinished stream. */
async function openStream({ context, phases, options }: CreateRun): Promise<StreamOutput> {
  const { plan, sink } = context;
  const stream =
    sink === undefined
      ? await StreamOutput.open(plan.memoryPath, options.signal)
      : StreamOutput.of(sink, options.signal);
  phases.onUndo('left the stream unfinished', 'discard what was read from it', () => stream.discard());
  return stream;
}

/** Creates the record, on tmpfs, of what has been done to the guest. */
export async function openRecord(run: CreateRun, journal: CreateJournal): Promise<HoldRecord> {
  const { host, context, phases } = run;
  await phases.step(() => removeStaleHold(host, journal.path));
  const { domid, uuid, name } = context.domain;
  const { type } = context.plan;
  const record = HoldRecord.create(host, { journal: journal.path, domid, uuid, domain: name, type });
  planRecordUndo(phases, domid, record, async () => run.hold?.announce());
  return record;
}
