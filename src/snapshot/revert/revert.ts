/** Reverts a domain to a snapshot. */

import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { CallOptions } from '../../core/call-options.ts';
import { within } from '../../core/deadline.ts';
import {
  DiskError,
  DomainError,
  describeError,
  InterruptedError,
  OutputError,
  RestoreError,
  type XlsnapError,
} from '../../core/errors.ts';
import { makeDirectory, unmakeDirectory } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { RecoverResult, RevertPlan, RevertRequest, RevertResult } from '../api.ts';
import { lockIdentified } from '../domain-lock.ts';
import { nameFromTime, snapshotDirOf } from '../naming.ts';
import { Phases } from '../phases.ts';
import type { DomainState, Host } from '../ports.ts';
import { readJournal } from '../read-journal.ts';
import { describeRisk } from '../risks.ts';
import { planDirectoryUndo, planJournalUndo } from '../undo.ts';
import { cleanKept, revertDisks } from './disks.ts';
import { openRevertJournal, type RevertJournal, revertJournalPath, withTime } from './journal.ts';
import { describeKept, type KeptDisk } from './kept.ts';
import { makeRevertContext, type RevertContext } from './plan.ts';
import { recoverRevert } from './recover.ts';
import { warnOfUnconnected } from './restore-check.ts';
import { findTarget, type RevertTarget } from './target.ts';
import { findReturned, returnedError } from './users.ts';

const DEFAULT_DESTROY_TIMEOUT_MS = 60_000;
/** How long looking up the domain may take: after a failure, and when it has been restored and is about to run. */
const LOOKUP_MS = 10_000;

/** Plans what `revertSnapshot` would do and runs all its checks, without changing anything. Throws as it does. */
export async function planRevert(
  host: Host,
  request: RevertRequest,
  options: CallOptions = {},
): Promise<RevertPlan> {
  const { plan, journals } = await makeRevertContext(host, request, options);
  if (journals.length > 0) {
    options.reporter?.log(
      'warning',
      'an earlier revert was killed, or is still running: what it left is undone first',
    );
  }
  return plan;
}

/**
 * Reverts a domain to a snapshot: checks everything, destroys the domain if it runs, puts the disks back, restores the
 * memory, and lets the domain run if it should.
 *
 * What an earlier revert left that was killed or failed is undone first. Until the destroy nothing else is changed. If a
 * disk cannot be put back, all disks are as before. If the restore fails, all disks are as at the snapshot, and what was
 * replaced is kept until the domain is restored: run the same command again, and `recoverSnapshot` with the journal puts
 * the former disks back. Once the domain is restored, the signal is ignored. The same holds if this
 * process is killed.
 *
 * @throws {PreflightError} If it is not possible: nothing has been changed
 * @throws {RiskError} If it is risky, unless `force`: nothing has been changed
 * @throws {RecoverError} If what an earlier revert left cannot be undone
 * @throws {OutputError} If the journal cannot be written
 * @throws {DiskError} If a disk cannot be put back
 * @throws {RestoreError} If the restore fails, or the domain cannot be made to run
 * @throws {InterruptedError} If the signal is aborted. Each says what has become of the domain and its disks
 */
export async function revertSnapshot(
  host: Host,
  request: RevertRequest,
  options: CallOptions = {},
): Promise<RevertResult> {
  const phases = new Phases(options);
  // First of all: another operation would change what is checked.
  await using locked = await lockIdentified(
    phases,
    host.toolstack,
    () => findTarget(host, request),
    'snapshot-revert',
  ).catch(async (error: unknown) => {
    throw await phases.fail(error);
  });
  const target = locked.found;
  const journalPath = revertJournalPath(snapshotDirOf(host), target.stored.uuid);
  const reached: RevertProgress = { kept: [] };
  try {
    const former = await recoverFormer(host, target.journals, phases, options);
    const halfBuilt = former.find((result) => result.halfBuilt !== undefined)?.halfBuilt;
    const check = (): Promise<RevertContext> =>
      phases.run('check', () => makeRevertContext(host, request, options, { keys: locked.keys, halfBuilt }));
    let context = await check();
    reached.context = context;
    const { running } = context;
    if (running !== undefined && running.domid === halfBuilt) {
      // The earlier revert's journal stays until its disks are as before it, which is possible only now.
      await phases.run('destroy', () => destroy(host, running, request, options));
      await recoverFormer(host, target.journals, phases, options);
      context = await check();
      reached.context = context;
    }
    const { plan } = context;
    for (const warning of [...plan.risks.map(describeRisk), ...plan.warnings]) {
      phases.reporter.log('warning', warning);
    }
    const mark = `${nameFromTime(new Date())}-${randomBytes(3).toString('hex')}`;
    const { journal, remove, keep } = await phases.run('open', () =>
      openJournal(journalPath, context, request, mark, phases),
    );
    const { running: now } = context;
    const left = phases.seconds;
    if (now !== undefined) await phases.run('destroy', () => destroy(host, now, request, options));
    const replaced = await phases.run('disks', async () => {
      // The checks may have taken minutes; the domain may have rebooted or been started again since.
      const returned = await findReturned(host, context);
      if (returned !== undefined) throw returnedError(returned);
      return await revertDisks(host, plan.disks, mark, phases, journal);
    });
    reached.kept = replaced;
    if (plan.disks.length > 0) {
      keep();
      reached.journal = journalPath;
    }
    const domid = await phases.run('restore', async () => {
      await journal.noteDurably(withTime({ step: 'restoring' }));
      return await host.toolstack.restore(plan.memoryPath, context.config, {
        signal: options.signal,
        onProgress: (done, total) =>
          phases.reporter.progress({ phase: 'restore', done, total, unit: 'bytes' }),
      });
    });
    journal.noteMaybe(withTime({ step: 'restored', domid }));
    phases.shield();
    reached.domid = domid;
    // Before it runs: a guest with a file system there would hang at its first access.
    const unconnected = await phases.bounded(() => warnOfUnconnected(host, domid), LOOKUP_MS).catch(() => []);
    for (const warning of unconnected) phases.reporter.log('warning', warning);
    if (plan.state === 'running') {
      await phases.run('unpause', () => phases.bounded(() => host.hypervisor.unpause(domid)));
      journal.noteMaybe(withTime({ step: 'unpaused' }));
    }
    const awaySeconds = now === undefined ? undefined : phases.seconds - left;
    const { files, warnings } = await phases.run('finish', async () => {
      // Once more, and on the disk: after a crash of dom0, recover would put the former disks back without it.
      await phases.bounded(() => journal.noteDurably(withTime({ step: 'restored', domid }))).catch(() => {});
      const cleaned = await cleanKept(host, domid, plan.disks, mark, {
        keep: request.keep === true,
        phases,
      });
      return { ...cleaned, warnings: [...cleaned.warnings, ...(await remove())] };
    });
    return {
      plan,
      domid,
      phases: phases.timings,
      totalSeconds: phases.seconds,
      ...(awaySeconds === undefined ? {} : { awaySeconds }),
      kept: files,
      warnings: [...plan.risks.map(describeRisk), ...plan.warnings, ...unconnected, ...warnings],
    };
  } catch (error) {
    const failure = await phases.fail(error);
    throw explain(failure, reached, await describeDomain(host, reached));
  }
}

/** Undoes an earlier revert first: its half-reverted disks would be taken for the domain's own. */
async function recoverFormer(
  host: Host,
  journals: RevertTarget['journals'],
  phases: Phases,
  options: CallOptions,
): Promise<readonly RecoverResult[]> {
  const results: RecoverResult[] = [];
  for (const { path } of journals) {
    const result = await phases.run('recover', async () => {
      const found = await readJournal(path);
      // We hold the lock: nobody is about to write its first line.
      if (found?.kind === 'headless') await rm(path, { force: true });
      return found?.kind === 'revert'
        ? await recoverRevert(host, found, options, { keepUsed: true })
        : undefined;
    });
    if (result === undefined) continue;
    results.push(result);
    const { kept = [] } = result;
    const how = {
      nothing: '',
      undone: 'the disks are as before it',
      reverted:
        'the disks are as at its snapshot, and their former contents are kept' +
        (kept.length === 0 ? '' : ` (${kept.join(', ')})`),
      whole: 'it was done',
      deleted: '',
    }[result.outcome];
    phases.reporter.log(
      'warning',
      `an earlier revert of ${result.domain} to "${result.name}" did not finish; ${how}, and the domain is ${result.guest}`,
    );
  }
  return results;
}

/** Creates the journal, before anything takes effect. */
async function openJournal(
  path: string,
  { plan, running: domain }: RevertContext,
  { config, running, force, accept = [], keep: keepsFiles = false }: RevertRequest,
  mark: string,
  phases: Phases,
): Promise<{
  readonly journal: RevertJournal;
  /** Removes it, with the directory that was made for it. */
  readonly remove: () => Promise<readonly string[]>;
  /** Makes it stay if the revert fails. */
  readonly keep: () => void;
}> {
  const directory = dirname(path);
  let made: string | undefined;
  try {
    made = await makeDirectory(directory);
  } catch (cause) {
    throw new OutputError('JOURNAL', `cannot create ${directory} for the journal`, {
      cause,
      hint: 'a revert records there what it does, so that it can be undone if it is killed; nothing has been changed',
    });
  }
  const forgetDirectory = made === undefined ? undefined : planDirectoryUndo(phases, made, path);
  const journal = await openRevertJournal(path, plan, {
    configPath: config.source === undefined ? undefined : resolve(config.source),
    options: { running: running === true, force: force === true, accept, keep: keepsFiles },
    destroys: domain && { uuid: domain.uuid, name: domain.name },
    mark,
    madeDirectory: made,
  });
  const forgetJournal = planJournalUndo(phases, path, path, journal);
  const keep = (): void => {
    forgetDirectory?.();
    forgetJournal();
    phases.onUndo(`closed ${path}`, 'nothing', async () => {
      await journal.keep();
      return false;
    });
  };
  return { journal, remove: () => removeJournal(journal, made), keep };
}

/** Removes the journal. The domain is back, so a failure is only a warning. */
async function removeJournal(journal: RevertJournal, made: string | undefined): Promise<readonly string[]> {
  try {
    await journal.remove();
    if (made !== undefined) await unmakeDirectory(dirname(journal.path), made);
    return [];
  } catch (error) {
    return [`${journal.path} is still there (${describeError(error)}): xlsnap recover removes it`];
  }
}

async function destroy(
  host: Host,
  running: DomainState,
  request: RevertRequest,
  options: CallOptions,
): Promise<void> {
  await host.toolstack.destroy(running.domid, {
    timeoutMs: request.timeoutMs ?? DEFAULT_DESTROY_TIMEOUT_MS,
    signal: options.signal,
  });
}

/** How far a revert got. */
interface RevertProgress {
  context?: RevertContext;
  kept: readonly KeptDisk[];
  /** The journal, which stays, and from which they can be put back. */
  journal?: string;
  /** The restored domain. */
  domid?: DomainState['domid'];
}

/** Describes the domain after a failure. It is looked up, since it may have been started again. */
async function describeDomain(host: Host, { context }: RevertProgress): Promise<string> {
  if (context === undefined) return '';
  const gone = context.running === undefined ? 'is not running' : 'was destroyed and is not running';
  try {
    const now = await within(findReturned(host, context), { timeoutMs: LOOKUP_MS }, () => new Error('hangs'));
    return now === undefined ? gone : `runs as domid ${now.domid}`;
  } catch {
    return context.running === undefined ? 'did not run' : 'was destroyed';
  }
}

/**
 * Adds to an error, after the checks, what has become of the domain and its disks.
 * @param state of the domain now
 */
function explain(
  error: XlsnapError,
  { context, kept, journal, domid }: RevertProgress,
  state: string,
): XlsnapError {
  if (context === undefined) return error;
  const { domain, disks } = context.plan;
  const why = describeError(error);
  const again = 'run the same command again';
  const tell = (
    Kind: typeof DomainError | typeof DiskError | typeof RestoreError,
    code: string,
    message: string,
    hints: readonly string[],
  ): XlsnapError => {
    const details = {
      cause: error,
      hint: [...hints, ...kept.map(describeKept)].join('; '),
      data: { ...error.data, ...(kept.length === 0 ? {} : { kept }) },
      phase: error.phase,
    };
    const told =
      error instanceof InterruptedError
        ? new InterruptedError(error.code, message, details)
        : new Kind(code, message, details);
    told.undone = error.undone;
    told.undoFailures = error.undoFailures;
    return told;
  };
  switch (error.phase) {
    case 'destroy':
      return tell(DomainError, error.code, `domain ${domain}: ${why}; its disks are unchanged`, [
        error.hint ?? `xl list shows whether it still runs; ${again}`,
      ]);
    case 'disks':
      return error.undoFailures.length === 0
        ? tell(
            DiskError,
            'DISKS_NOT_REVERTED',
            `domain ${domain} ${state}, and its disks are as before: they could not be reverted: ${why}`,
            [again, `xl create starts ${domain} with its disks as before`],
          )
        : tell(
            DiskError,
            'DISKS_NOT_REVERTED',
            `domain ${domain} ${state}, and not all of its disks are as before: they could not be reverted: ${why}`,
            ['undo the rest by hand', `then ${again}, or xl create starts ${domain}`],
          );
    case 'restore':
      return tell(
        RestoreError,
        'RESTORE_FAILED',
        `domain ${domain} could not be restored: ${why}; it ${state}` +
          (disks.length === 0 ? '' : '; its disks are as at the snapshot'),
        journal === undefined
          ? [again]
          : [again, `xlsnap recover ${shellQuote(journal)} puts its disks back as they were before`],
      );
    case 'unpause':
      return tell(
        RestoreError,
        'NOT_UNPAUSED',
        `domain ${domain} is back at the snapshot, but stays paused: it could not be unpaused: ${why}`,
        [
          `xl unpause ${domid} makes it run`,
          ...(journal === undefined
            ? []
            : [`xlsnap recover ${shellQuote(journal)} does that, and removes what it had replaced`]),
        ],
      );
    default:
      return error;
  }
}
