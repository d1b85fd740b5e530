/** Opens what a create writes to: its journal, the memory file or stream, and the record of what is done to the guest. */

import { dirname } from 'node:path';
import { PAGE_SIZE } from '../../core/brand.ts';
import type { CallOptions } from '../../core/call-options.ts';
import { dirtyRoom } from '../../core/dirty-room.ts';
import { makeDirectory } from '../../core/files.ts';
import type { XenVersion } from '../../core/xen.ts';
import { printLibxlJson } from '../../memfile/libxl-json.ts';
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
  /** What storages have noted about the snapshots that they prepare, by vdev. */
  readonly prepared: Map<string, string>;
  /** Inode numbers of the files that are reserved for overlays, by vdev. */
  readonly reserved: Map<string, number>;
}

/** What the memory goes to, with its journal. */
export interface OpenOutput {
  readonly journal: CreateJournal;
  readonly output: OutputFile | StreamOutput;
  readonly saver: PageSaver;
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
  const output = context.plan.stream ? await openStream(run) : await openFile(run, journal);
  await output.writeAt(prefix, 0);
  const saving: MemoryOptions = {
    signal: options.signal,
    reporter: phases.reporter,
    expectedPages: context.domain.memoryBytes / PAGE_SIZE,
    tuning: context.tuning,
    spareMemory: host.spareMemory,
  };
  const saver =
    output instanceof OutputFile
      ? new FileSaver(guest, output, prefix.length, saving)
      : new StreamSaver(guest, output, prefix.length, saving);
  return { journal, output, saver, prefix, makePrefix };
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

async function openFile(
  { host, context, phases, mark }: CreateRun,
  journal: CreateJournal,
): Promise<OutputFile> {
  const { memoryPath } = context.plan;
  const file = await OutputFile.create(memoryPath, {
    mark,
    note: (inode) => journal.note({ step: 'opened', inode }),
  });
  planPartialUndo(phases, memoryPath, () => file.discard(phases.hanging));
  const room = host.dirtyRoom ?? dirtyRoom;
  if (context.tuning?.direct ?? context.domain.memoryBytes > DIRECT_FACTOR * room()) await file.openDirect();
  return file;
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
