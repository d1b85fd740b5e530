import { describeError, RestoreError } from '../core/errors.ts';
import { nameFromTime } from './naming.ts';
import { Phases } from './phases.ts';
import type { DomainState, Host } from './ports.ts';
import { cleanKept, describeKept, type KeptDisk, revertDisks } from './revert-disks.ts';
import { makeRevertContext, type RevertContext } from './revert-plan.ts';
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
 * all disks are as at the snapshot, and what was replaced is kept aside; the same command tries again.
 *
 * @throws what `planRevert` throws, before anything is touched
 * @throws DiskError when a disk cannot be put back; RestoreError when the restore fails
 */
export async function revertSnapshot(
  host: Host,
  request: RevertRequest,
  options: CallOptions = {},
): Promise<RevertResult> {
  const phases = new Phases(options);
  const start = performance.now();
  try {
    const context = await phases.run('check', () => makeRevertContext(host, request, options));
    const { plan, running } = context;
    for (const risk of plan.risks) phases.reporter.log('warning', risk);
    if (running !== undefined) {
      await phases.run('destroy', () => destroy(host, running, request, options));
    }
    const mark = nameFromTime(new Date());
    const kept = await phases.run('disks', () => revertDisks(host.images, plan.disks, mark, phases));
    const domid = await phases.run('restore', () => restore(host, context, kept, options));
    if (plan.state === 'running') await phases.run('unpause', () => host.hypervisor.unpause(domid));
    const { files, warnings } = await phases.run('finish', () =>
      cleanKept(host.images, kept, request.keep === true),
    );
    return {
      plan,
      domid,
      phases: phases.timings,
      totalSeconds: (performance.now() - start) / 1000,
      kept: files,
      warnings: [...plan.risks, ...warnings],
    };
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

async function restore(
  host: Host,
  { plan, config }: RevertContext,
  kept: readonly KeptDisk[],
  options: CallOptions,
): Promise<DomainState['domid']> {
  try {
    return await host.toolstack.restore(plan.memoryPath, config, options);
  } catch (cause) {
    const disks = plan.disks.length === 0 ? '' : '; its disks are as at the snapshot';
    throw new RestoreError(
      'RESTORE_FAILED',
      `domain ${plan.domain} could not be restored: ${describeError(cause)}; it is not running${disks}`,
      {
        cause,
        hint: ['the same command tries again', ...kept.map(describeKept)].join('; '),
        data: { kept },
      },
    );
  }
}
