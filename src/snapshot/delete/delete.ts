/** Deletes snapshots: their tags, then their files. */
import { rm } from 'node:fs/promises';
import type { CallOptions } from '../../core/call-options.ts';
import { PartialError, PreflightError, RecoverError, throwIfAborted } from '../../core/errors.ts';
import { describeProblems } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { FoundManifest } from '../../memfile/find-manifests.ts';
import type { RecoverResult } from '../api.ts';
import { lockIdentified } from '../domain-lock.ts';
import { throwFindings } from '../findings.ts';
import { journalPathOf } from '../naming.ts';
import { Phases } from '../phases.ts';
import type { Host } from '../ports.ts';
import { readJournal } from '../read-journal.ts';
import { type DeleteStep, makeDeleteHead, openDeleteJournal } from './journal.ts';
import { type Examined, examine, refusedOf } from './plan.ts';
import { recoverDelete } from './recover.ts';
import { deleteActions, isUntouched, removeEmpty, syncRemoval } from './steps.ts';
import { type DeleteTarget, findDeleteTarget } from './target.ts';
import type { DeletePlan, DeleteRequest, DeleteResult, PlannedDelete, RefusedDelete } from './types.ts';

/** Plans what `deleteSnapshots` would do, and makes all its checks, without changing anything. Throws as it does. */
export async function planDelete(
  host: Host,
  request: DeleteRequest,
  options: CallOptions = {},
): Promise<DeletePlan> {
  return await makePlan(host, request, await findDeleteTarget(host, request), options);
}

/**
 * Deletes snapshots of a domain, newest first: each one's tags, by the domain's own QEMU where it has the image open, then its
 * cfgfile, memory file and manifest. The domain may run.
 *
 * Nothing is deleted that another snapshot, a domain or another program needs. Of external snapshots, base and overlay
 * stay: they are the domain's disk; so does the manifest, which names them. With `merge`, the overlay is merged into the base, on
 * which the domain continues; then whatever starts the domain must name the base. With `snapshots`, all of them can be deleted, or
 * none is touched. Otherwise, those that can be are deleted, and the others are in the error.
 *
 * Each has a journal before anything of it goes. If it cannot be deleted completely, or this process is killed, the same
 * request, or `recoverSnapshot` with its memory file, finishes that. Until then `listSnapshots` does not call it good.
 *
 * @throws {PreflightError} If one of `snapshots` cannot be deleted: nothing has been changed
 * @throws {PartialError} NOT_ALL_DELETED without `snapshots`, if some cannot be deleted: `data` has `deleted` and `refused`
 * @throws {PreflightError} NOT_ALL_DELETED without `snapshots`, if none of them can be deleted
 * @throws {DiskError} If a tag cannot be deleted
 * @throws {OutputError} If a journal cannot be written, or a file cannot be removed
 * @throws {InterruptedError} If the signal is aborted. In each case `done` says which snapshots are deleted, and `undoFailures`
 * which is deleted in part; the others are complete
 */
export async function deleteSnapshots(
  host: Host,
  request: DeleteRequest,
  options: CallOptions = {},
): Promise<DeleteResult> {
  const phases = new Phases(options);
  await using locked = await lockIdentified(
    phases,
    host.toolstack,
    () => findDeleteTarget(host, request),
    'snapshot-delete',
  ).catch(async (error: unknown) => {
    throw await phases.fail(error);
  });
  const { keys } = locked;
  const deleted: PlannedDelete[] = [];
  let finished: readonly RecoverResult[] = [];
  try {
    finished = await finishFormer(host, locked.found, phases, options);
    const done = finished.flatMap((one) => [one.name ?? '', one.journal.slice(0, -journalPathOf('').length)]);
    const { plan, target } = await phases.run('check', async () => {
      const found = await findDeleteTarget(host, request, done);
      return { plan: await makePlan(host, request, found, options), target: found };
    });
    for (const warning of plan.warnings) phases.reporter.log('warning', warning);
    const refused = [...plan.refused];
    const total = plan.snapshots.length;
    for (const [at, { memoryPath }] of plan.snapshots.entries()) {
      const found = target.snapshots.find((one) => one.memoryPath === memoryPath);
      if (found === undefined) continue;
      phases.reporter.progress({ phase: 'delete', done: at, total, unit: 'steps' });
      const outcome = await phases.run('delete', () =>
        deleteOne(host, found, { target, deleted, keys, merge: request.merge === true }, phases, options),
      );
      if ('problems' in outcome) refused.push(outcome);
      else deleted.push(outcome);
    }
    if (refused.length > 0) throw notAll(refused, deleted, finished.length > 0);
    return {
      plan,
      finished,
      phases: phases.timings,
      totalSeconds: phases.seconds,
      warnings: plan.warnings,
    };
  } catch (error) {
    const failure = await phases.fail(error);
    failure.done = [
      ...finished.map(({ name = '' }) => `finished the delete of snapshot "${name}"`),
      ...deleted.map(({ name }) => `deleted snapshot "${name}"`),
    ];
    throw failure;
  }
}

/** Plans a delete of what was found. */
async function makePlan(
  host: Host,
  request: DeleteRequest,
  target: DeleteTarget,
  options: CallOptions,
): Promise<DeletePlan> {
  const warnings: string[] = [];
  const warn = (text: string): void => {
    if (!warnings.includes(text)) warnings.push(text);
  };
  const before: Examined[] = [];
  const refused: RefusedDelete[] = [];
  for (const one of target.snapshots) {
    throwIfAborted(options.signal);
    const others = staying(
      target,
      before.map((other) => other.planned),
      one,
    );
    const state = { others, keys: target.keys, merge: request.merge === true, before };
    const examined = await examine(host, one, state, warn);
    if (examined.problems.length > 0) refused.push(refusedOf(examined));
    else before.push(examined);
  }
  const domid = target.given.running?.domid;
  if ((request.snapshots ?? []).length > 0) {
    const several = target.snapshots.length > 1;
    throwFindings(
      refused.flatMap(({ name, problems }) =>
        problems.map((one) => (several ? { ...one, message: `"${name}": ${one.message}` } : one)),
      ),
      domid,
    );
  }
  return {
    domain: request.domain,
    domid,
    snapshots: before.map(({ planned }) => planned),
    refused,
    unfinished: target.unfinished.map(({ path }) => path),
    warnings,
  };
}

/** The snapshots that are there when one is deleted, once those before it are. */
function staying(
  { all }: DeleteTarget,
  gone: readonly PlannedDelete[],
  own: FoundManifest,
): readonly FoundManifest[] {
  return all.found.filter(
    ({ memoryPath }) =>
      memoryPath !== own.memoryPath &&
      // An overlay that is left needs its base as it is.
      !gone.some((other) => other.memoryPath === memoryPath && other.keptManifest === undefined),
  );
}

/** Finishes deletes that were killed. */
async function finishFormer(
  host: Host,
  { unfinished }: DeleteTarget,
  phases: Phases,
  options: CallOptions,
): Promise<readonly RecoverResult[]> {
  const results: RecoverResult[] = [];
  for (const { path } of unfinished) {
    const result = await phases.run('recover', async () => {
      const found = await readJournal(path);
      return found?.kind === 'delete' ? await recoverDelete(host, found, options) : undefined;
    });
    if (result !== undefined) results.push(result);
  }
  return results;
}

/**
 * Deletes one snapshot, after another look at it: those before it may have taken minutes.
 * @returns why it cannot be deleted, if that has changed
 */
async function deleteOne(
  host: Host,
  one: FoundManifest,
  state: {
    readonly target: DeleteTarget;
    readonly deleted: readonly PlannedDelete[];
    readonly keys: readonly string[];
    readonly merge: boolean;
  },
  phases: Phases,
  options: CallOptions,
): Promise<PlannedDelete | RefusedDelete> {
  const { target, deleted, keys, merge } = state;
  const others = staying(target, deleted, one);
  const examined = await examine(host, one, { others, keys, merge, before: [] }, () => {});
  if (examined.problems.length > 0) return refusedOf(examined);
  const { planned, doomed, files } = examined;
  const { memoryPath, name } = planned;
  const path = journalPathOf(memoryPath);
  const head = makeDeleteHead(planned, { memoryPath, keys, ...doomed, files });
  phases.checkpoint();
  // One without a first line: its writer was killed before it had begun, since we hold the locks.
  if ((await readJournal(path))?.kind === 'headless') await rm(path, { force: true });
  const journal = await openDeleteJournal(head);
  const steps: DeleteStep[] = [];
  const note = async (step: DeleteStep): Promise<void> => {
    await journal.noteDurably(step);
    steps.push(step);
  };
  const forget = phases.onUndo(
    `kept snapshot "${name}" as it was`,
    `xlsnap recover ${shellQuote(memoryPath)}, or the same command again, deletes the rest`,
    async () => {
      // What was given up may still take effect.
      if (phases.hanging === undefined && (await isUntouched(host, head, steps))) {
        await journal.remove();
        return true;
      }
      await journal.keep();
      throw new RecoverError('DELETED_IN_PART', 'it is deleted in part');
    },
  );
  for (const { run } of deleteActions(host, head, { keys, steps, note, options })) {
    phases.checkpoint();
    await run();
  }
  await syncRemoval(head);
  await journal.remove();
  forget();
  await removeEmpty(host, head);
  return planned;
}

/** @returns the error to throw */
function notAll(
  refused: readonly RefusedDelete[],
  deleted: readonly PlannedDelete[],
  changed: boolean,
): PartialError | PreflightError {
  const lines = refused.flatMap(({ name, problems }) =>
    describeProblems(problems).map((reason) => `  - "${name}": ${reason}`),
  );
  const total = refused.length + deleted.length;
  const message = `${refused.length} of ${total} snapshots cannot be deleted now:\n${lines.join('\n')}`;
  const details = { phase: 'delete', data: { deleted, refused } };
  return deleted.length === 0 && !changed
    ? new PreflightError('NOT_ALL_DELETED', message, { ...details, hint: 'nothing has been changed' })
    : new PartialError('NOT_ALL_DELETED', message, {
        ...details,
        hint: 'these are as good as before; run the same command again once the cause has gone',
      });
}
