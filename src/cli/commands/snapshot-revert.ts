import { readConfigFile } from '../../config/read.ts';
import type { RevertRequest } from '../../snapshot/api.ts';
import type { RiskName } from '../../snapshot/risks.ts';
import type { CliContext } from '../context.ts';
import { revertPlanText, revertResultText } from '../output.ts';
import { type CommonOptions, runSession } from '../session.ts';
import { jsonLine } from '../text.ts';

export interface RevertOptions extends CommonOptions {
  readonly running?: boolean;
  readonly force?: boolean;
  readonly accept?: readonly RiskName[];
  readonly keep?: boolean;
  readonly dryRun?: boolean;
  /** Seconds. */
  readonly timeout?: number;
}

/** Runs `xlsnap snapshot-revert`; returns the exit code. */
export function snapshotRevert(
  context: CliContext,
  domain: string,
  cfgfile: string,
  options: RevertOptions,
): Promise<number> {
  return runSession(
    context,
    options,
    async (): Promise<RevertRequest> => ({
      domain,
      config: await readConfigFile(cfgfile),
      running: options.running === true,
      force: options.force === true,
      ...(options.accept === undefined ? {} : { accept: options.accept }),
      keep: options.keep === true,
      ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout * 1000 }),
      otherOptions: [
        ...(options.untestedXen === true ? ['--untested-xen'] : []),
        ...(options.dryRun === true ? ['--dry-run'] : []),
        ...(options.json === true ? ['--json'] : []),
        ...(options.quiet === true ? ['--quiet'] : []),
      ],
    }),
    async (session, request) => {
      if (options.dryRun === true) {
        const plan = await session.calls.planRevert(session.host, request, session.options);
        return options.json === true ? jsonLine('revert_plan', plan) : revertPlanText(plan);
      }
      const result = await session.calls.revertSnapshot(session.host, request, session.options);
      for (const warning of result.warnings) session.reporter.log('warning', warning);
      return options.json === true ? jsonLine('revert_result', result) : revertResultText(result);
    },
  );
}
