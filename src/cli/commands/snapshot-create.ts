/** Runs `xlsnap snapshot-create`. */
import { checkSnapshotName } from '../../config/name.ts';
import { readConfigFile } from '../../config/read.ts';
import { UsageError } from '../../core/errors.ts';
import type { CreateRequest } from '../../snapshot/api.ts';
import { parseTuning } from '../../snapshot/memory/tuning.ts';
import { isStdout } from '../../snapshot/output/stream.ts';
import type { Guardian } from '../../snapshot/ports.ts';
import type { CliContext } from '../context.ts';
import { createPlanText, createResultText } from '../output.ts';
import type { CliReporter } from '../progress.ts';
import { type CommonOptions, runSession } from '../session.ts';
import { jsonLine } from '../text.ts';

export interface CreateOptions extends CommonOptions {
  readonly name?: string;
  readonly live?: boolean;
  readonly track?: boolean;
  readonly maxRounds?: number;
  /** Milliseconds. */
  readonly targetDowntime?: number;
  /** Milliseconds. */
  readonly maxDowntime?: number;
  /** Words of a `Tuning`, with `+` between them; for `xlsnap bench`. */
  readonly tuning?: string;
  /** virsh has it; the RFC rules it out. */
  readonly diskOnly?: boolean;
  /** False with `--no-sync`. */
  readonly sync?: boolean;
  readonly dryRun?: boolean;
  /** Seconds. */
  readonly timeout?: number;
}

/**
 * Runs `xlsnap snapshot-create`; returns the exit code.
 * @param guardian one that has been started already
 */
export function snapshotCreate(
  context: CliContext,
  domain: string,
  cfgfile: string | undefined,
  options: CreateOptions,
  guardian?: Guardian,
): Promise<number> {
  return runSession(
    context,
    options,
    async (reporter) => ({ ...(await requestOf(domain, cfgfile, options, reporter)), guardian }),
    async (session, request) => {
      if (options.dryRun === true) {
        const plan = await session.calls.planCreate(session.host, request, session.options);
        return options.json === true ? jsonLine('create_plan', plan) : createPlanText(plan);
      }
      const result = await session.calls.createSnapshot(session.host, request, session.options);
      for (const warning of result.warnings) session.reporter.log('warning', warning);
      const text = options.json === true ? jsonLine('create_result', result) : createResultText(result);
      return isStdout(result.plan.memoryPath) ? { text, to: 'stderr' } : text;
    },
  );
}

async function requestOf(
  domain: string,
  cfgfile: string | undefined,
  options: CreateOptions,
  reporter: CliReporter,
): Promise<CreateRequest> {
  if (options.diskOnly === true) {
    throw new UsageError('DISK_ONLY', 'snapshots of the disks alone are not supported', {
      hint: 'without the memory the disks would be as after a crash; omit --disk-only, or use qemu-img with the domain down',
    });
  }
  const { name, timeout, live, track, maxRounds, targetDowntime, maxDowntime } = options;
  const problem = name === undefined ? undefined : checkSnapshotName(name);
  if (problem !== undefined) {
    throw new UsageError(problem.code, `--name: ${problem.message}`, { hint: problem.hint });
  }
  const config = cfgfile === undefined ? undefined : await readConfigFile(cfgfile);
  if (name !== undefined && config?.name !== undefined && config.name !== name) {
    reporter.log('warning', `the name in the cfgfile, "${config.name}", takes precedence over --name`);
  }
  return {
    domain,
    config,
    name,
    live,
    track,
    maxRounds,
    targetDowntimeMs: targetDowntime,
    maxDowntimeMs: maxDowntime,
    tuning: options.tuning === undefined ? undefined : parseTuning(options.tuning.split('+')),
    sync: options.sync === false ? false : undefined,
    suspendTimeoutMs: timeout === undefined ? undefined : timeout * 1000,
  };
}
