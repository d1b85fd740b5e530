import { randomBytes } from 'node:crypto';
import {
  DiskError,
  DomainError,
  describeError,
  InterruptedError,
  RestoreError,
  type XlsnapError,
} from '../core/errors.ts';
import { nameFromTime } from './naming.ts';
import { Phases } from './phases.ts';
import type { DomainState, Host } from './ports.ts';
import { cleanKept, describeKept, type KeptDisk, revertDisks } from './revert-disks.ts';
import { makeRevertContext, type RevertContext, snapshotUuid } from './revert-plan.ts';
import type { CallOptions, RevertPlan, RevertRequest, RevertResult } from './types.ts';

const DEFAULT_DESTROY_TIMEOUT_MS = 60_000;

/** What `revertSnapshot` would do, after all checks; touches nothing. Throws as it does. */
export async function planRevert(
  host: Host,
  request: RevertRequest,
  options: CallOptions = {},
): Promise<RevertPlan> {
  return (await makeRevertContext(host, request, options)).plan;
}

/**
 * Reverts a domain to a snapshot: checks everything, destroys the domain if it runs, puts the disks back, restores the
 * memory, and makes the domain run if it is due.
 *
 * Until the destroy nothing is touched. If a disk cannot be put back, all disks are as before. If the restore fails,
 * all disks are as at the snapshot, and what was replaced is kept aside; the same command tries again. Once the domain
 * is restored, the signal is not heeded any more.
 *
 * @throws what `planRevert` throws, before anything is touched
 * @throws DiskError when a disk cannot be put back; RestoreError when the restore fails, or the domain cannot be made
 * to run; InterruptedError. Each tells what has become of the domain and its disks.
 */
export async function revertSnapshot(
  host: Host,
  request: RevertRequest,
  options: CallOptions = {},
): Promise<RevertResult> {
  const phases = new Phases(options);
  // First of all: another create or revert would change what is checked.
  await using _lock = await acquire(host, request, phases);
  const reached: Reached = { kept: [] };
  try {
    const context = await phases.run('check', () => makeRevertContext(host, request, options));
    const { plan, running } = context;
    reached.context = context;
    for (const risk of plan.risks) phases.reporter.log('warning', risk);
    if (running !== undefined) {
      await phases.run('destroy', () => destroy(host, running, request, options));
    }
    const mark = `${nameFromTime(new Date())}-${randomBytes(3).toString('hex')}`;
    const replaced = await phases.run('disks', () => revertDisks(host.images, plan.disks, mark, phases));
    // Before the restore: qemu-img must never write to an image that a QEMU has open.
    const tags = await cleanKept(
      host.images,
      replaced.filter(({ kind }) => kind === 'tag'),
      false,
      phases,
    );
    const kept = replaced.filter(({ kind }) => kind === 'file');
    reached.kept = [...kept, ...tags.left];
    const domid = await phases.run('restore', () =>
      host.toolstack.restore(plan.memoryPath, context.config, options),
    );
    phases.shield();
    reached.domid = domid;
    if (plan.state === 'running') {
      await phases.run('unpause', () => phases.bounded(host.hypervisor.unpause(domid)));
    }
    const { files, warnings } = await phases.run('finish', () =>
      cleanKept(host.images, kept, request.keep === true, phases),
    );
    return {
      plan,
      domid,
      phases: phases.timings,
      totalSeconds: phases.seconds,
      kept: files,
      warnings: [...plan.risks, ...tags.warnings, ...warnings],
    };
  } catch (error) {
    throw explain(await phases.fail(error), reached);
  }
}

async function acquire(host: Host, request: RevertRequest, phases: Phases): Promise<AsyncDisposable> {
  try {
    return await phases.run('lock', async () =>
      host.toolstack.lock(await snapshotUuid(host, request), { what: 'snapshot-revert' }),
    );
  } catch (error) {
    throw await phases.fail(error);
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
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
}

/** How far a revert came. */
interface Reached {
  context?: RevertContext;
  kept: readonly KeptDisk[];
  /** The restored domain. */
  domid?: DomainState['domid'];
}

/** After the checks an error has to tell what has become of the domain and its disks. */
function explain(error: XlsnapError, { context, kept, domid }: Reached): XlsnapError {
  if (context === undefined) return error;
  const { domain, disks } = context.plan;
  const why = describeError(error);
  const gone = context.running === undefined ? 'is not running' : 'was destroyed and is not running';
  const again = 'the same command tries again';
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
      ...(error.phase === undefined ? {} : { phase: error.phase }),
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
      return tell(DomainError, error.code, `domain ${domain}: ${why}; its disks are untouched`, [
        error.hint ?? `xl list shows whether it still runs; ${again}`,
      ]);
    case 'disks':
      return error.undoFailures.length === 0
        ? tell(
            DiskError,
            'DISKS_NOT_REVERTED',
            `domain ${domain} ${gone}, and its disks are as before: they could not be reverted: ${why}`,
            [again, `xl create starts ${domain} with its disks as before`],
          )
        : tell(
            DiskError,
            'DISKS_NOT_REVERTED',
            `domain ${domain} ${gone}, and not all of its disks are as before: they could not be reverted: ${why}`,
            ['do by hand what was not undone', `then ${again}, or xl create starts ${domain}`],
          );
    case 'restore':
      return tell(
        RestoreError,
        'RESTORE_FAILED',
        `domain ${domain} could not be restored: ${why}; it ${gone}` +
          (disks.length === 0 ? '' : '; its disks are as at the snapshot'),
        [again],
      );
    case 'unpause':
      return tell(
        RestoreError,
        'NOT_UNPAUSED',
        `domain ${domain} is back at the snapshot, but stays paused: it could not be made to run: ${why}`,
        [`xl unpause ${domid} makes it run`],
      );
    default:
      return error;
  }
}
