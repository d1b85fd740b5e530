/** Completes a create once the guest runs again: the memory file or stream, the manifest and the cfgfile. */

import { dirname } from 'node:path';
import { describeError, InterruptedError, OutputError } from '../../core/errors.ts';
import { unmakeDirectory } from '../../core/files.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { XenVersion } from '../../core/xen.ts';
import { type Checksums, checksumFile, type FileRange, STRETCH } from '../../memfile/checksums.ts';
import { printLibxlJson } from '../../memfile/libxl-json.ts';
import type { DiskIdentity, Manifest } from '../../memfile/manifest.ts';
import { roomText, withRoomFor } from '../../memfile/memory-target.ts';
import { replaceConfig } from '../../savefmt/index.ts';
import { wasDestroyed } from '../guest/gone.ts';
import type { MemoryOutcome } from '../memory/file-saver.ts';
import type { PageSurvey } from '../memory/page-survey.ts';
import { OutputFile, writeWhole } from '../output/file.ts';
import type { StreamOutput } from '../output/stream.ts';
import type { CreateJournal } from './journal.ts';
import { type CreateRun, type OpenOutput, warn } from './open.ts';
import type { Taker } from './takers.ts';
import { digest, planTextUndo } from './undo.ts';

/** What is known of the guest and its memory once the guest runs again. */
export interface TakenState {
  readonly xen: XenVersion;
  readonly memory: MemoryOutcome;
  readonly takers: readonly Taker[];
  /** The part of the file before the pages, if it has changed since it was written. */
  readonly newPrefix: Uint8Array | undefined;
  /** The part behind the pages. */
  readonly suffix: Uint8Array;
  /** What is still to be checked, now that the guest runs. */
  readonly survey: PageSurvey | undefined;
}

interface Finished {
  readonly fileBytes: number;
  readonly allocatedBytes: number;
  /** Of a file, if they were computed. */
  readonly checksums?: Checksums | undefined;
}

/** Completes the file or the stream. */
export async function finishOutput(run: CreateRun, opened: OpenOutput, state: TakenState): Promise<Finished> {
  const { output } = opened;
  // Before the header with more room, which is a part of it.
  if (state.newPrefix !== undefined && output instanceof OutputFile) await output.writeAt(state.newPrefix, 0);
  await makeRoom(run, opened, state.memory.populated);
  return output instanceof OutputFile
    ? await finishFile(run, opened, output, state)
    : await finishStream(run, opened, output, state);
}

/** Raises the memory target of the configuration in the file, if the file has more memory than that. */
async function makeRoom(run: CreateRun, { output, prefix }: OpenOutput, pages: number): Promise<void> {
  const { config } = run.context;
  const roomy = withRoomFor(config, pages);
  if (roomy === undefined) return;
  const header = output instanceof OutputFile ? replaceConfig(prefix, printLibxlJson(roomy)) : undefined;
  const then =
    header === undefined
      ? 'snapshot-revert handles this; a plain xl restore needs a configuration with more memory'
      : 'a revert restores it with that as its target; then set it again with xl mem-set';
  if (header !== undefined) await output.writeAt(header, 0);
  warn(run, `${roomText(config, pages)}: ${then}`);
}

/** Completes the files. The memory file gets its name last: from then on the snapshot is complete. */
async function finishFile(
  run: CreateRun,
  { journal, saver }: OpenOutput,
  file: OutputFile,
  { xen, memory, takers, suffix, survey }: TakenState,
): Promise<Finished> {
  const { plan, tuning } = run.context;
  const { sync } = plan;
  await file.writeAt(suffix, memory.end);
  await saver.writeKept();
  // A clone may be longer.
  if (file.cloneSums !== undefined) await file.setLength(memory.end + suffix.length);
  const sizes = await file.sizes();
  // The disk is the slowest part.
  if (sync) file.beginSync();
  await checkSurvey(run, survey);
  const checksums =
    tuning?.checksums === false ? undefined : await readBack(run, file, sizes.fileBytes, memory.start);
  const facts = { bytes: sizes.fileBytes, pages: memory.pages };
  for (const taker of takers) await taker.complete();
  const identities = await Promise.all(takers.map((taker) => taker.identify()));
  await writeManifestAndCfgfile(run, journal, xen, {
    memory: facts,
    identities: identities.flat(),
    checksums,
  });
  await file.commit({ sync });
  return { ...sizes, checksums };
}

/**
 * Makes sure that no page was missed. A guest that no longer exists shows none.
 * @throws {DomainError} P2M_RESIZED if one was
 */
async function checkSurvey(
  { host, context, options }: CreateRun,
  survey: PageSurvey | undefined,
): Promise<void> {
  try {
    await survey?.check(options.signal);
  } catch (error) {
    if (error instanceof InterruptedError) throw error;
    if (!(await wasDestroyed(host, context.domain.domid).catch(() => false))) throw error;
  }
}

/** Completes a stream: its last bytes complete the snapshot. */
async function finishStream(
  run: CreateRun,
  { journal, saver }: OpenOutput,
  stream: StreamOutput,
  { takers, suffix, survey }: TakenState,
): Promise<Finished> {
  const { context, phases } = run;
  await checkSurvey(run, survey);
  await saver.writeKept();
  for (const taker of takers) await taker.complete();
  await stream.writeLast(suffix);
  phases.shield();
  // The reader has it all the same; after a crash of the host, only this line says so.
  if (context.plan.sync) await phases.bounded(() => journal.noteDurably({ step: 'whole' })).catch(() => {});
  else journal.noteMaybe({ step: 'whole' });
  await stream.commit({ sync: context.plan.sync });
  return await stream.sizes();
}

async function writeManifestAndCfgfile(
  run: CreateRun,
  journal: CreateJournal,
  xen: XenVersion,
  found: {
    readonly memory: { readonly bytes: number; readonly pages: number };
    readonly identities: readonly DiskIdentity[];
    readonly checksums: Checksums | undefined;
  },
): Promise<void> {
  const { context, phases, mark } = run;
  const { plan } = context;
  const { memory, identities, checksums } = found;
  const manifest: Manifest = omitUndefined({
    format: 'xlsnap-manifest' as const,
    version: 1 as const,
    name: plan.name,
    description: plan.description,
    created: new Date().toISOString(),
    state: plan.state,
    domain: plan.domain,
    uuid: plan.uuid,
    type: plan.type,
    xen,
    memory: { path: plan.memoryPath, ...memory },
    checksums,
    disks: plan.disks,
    identities,
    uncovered: plan.uncovered,
    unknownDrives: plan.unknownDrives.length === 0 ? undefined : plan.unknownDrives,
    qemu: context.qemu,
    phases: phases.timings,
  });
  const write = async (path: string, text: string): Promise<void> => {
    phases.checkpoint();
    const sha256 = digest(text);
    // After, not before: another program's file of that name stays.
    await writeWhole(path, text, {
      mark,
      note: (inode) => journal.note({ step: 'text', path, sha256, inode }),
    });
    planTextUndo(phases, path, sha256);
  };
  if (plan.manifestPath !== undefined) {
    await write(plan.manifestPath, `${JSON.stringify(manifest, null, 2)}\n`);
  }
  if (plan.configPath !== undefined) await write(plan.configPath, context.configText);
}

/** Computes the file's checksums: of what was written once they are known, the rest is read back. */
async function readBack(
  { host, phases, options }: CreateRun,
  file: OutputFile,
  size: number,
  head: number,
): Promise<Checksums> {
  const reading = {
    signal: options.signal,
    extents: host.extents,
    xxh3: host.xxh3,
    progress: (done: number) =>
      phases.reporter.progress({ phase: 'finish', done, total: size, unit: 'bytes' }),
  };
  try {
    if (file.cloneSums !== undefined) return await file.cloneSums.compute(file.fd, size, reading);
    const known = (stretch: FileRange): string | undefined => file.sumOf(stretch);
    return await checksumFile(file.fd, size, { head, stretch: STRETCH }, { ...reading, known });
  } catch (cause) {
    if (cause instanceof InterruptedError || cause instanceof OutputError) throw cause;
    throw new OutputError('OUTPUT_READ', `cannot read ${file.partialPath} back`, {
      cause,
      hint: 'check the file system: is it failing?',
    });
  }
}

/** Removes the journal. The snapshot is complete, so a failure is only a warning. */
export async function removeJournal(
  { phases, context, madeDirectory: made }: CreateRun,
  journal: CreateJournal,
): Promise<void> {
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
