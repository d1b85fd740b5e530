/** Runs `xlsnap snapshot-revert`. */
import { readConfigFile } from '../../config/read.ts';
import { RiskError } from '../../core/errors.ts';
import type { RevertPlan, RevertRequest } from '../../snapshot/api.ts';
import type { RiskName } from '../../snapshot/risks.ts';
import type { CliContext } from '../context.ts';
import { revertPlanText, revertResultText } from '../output.ts';
import { type CommonOptions, runSession } from '../session.ts';
import { isSnapshotName } from '../snapshot-name.ts';
import { jsonLine, printable } from '../text.ts';

export interface RevertOptions extends CommonOptions {
  readonly running?: boolean;
  readonly force?: boolean;
  readonly accept?: readonly RiskName[];
  readonly keep?: boolean;
  readonly dryRun?: boolean;
  readonly dir?: readonly string[];
  /** Seconds. */
  readonly timeout?: number;
}

/** Runs `xlsnap snapshot-revert`, with a cfgfile or the name of a snapshot; returns the exit code. */
export function snapshotRevert(
  context: CliContext,
  domain: string,
  cfgfile: string,
  options: RevertOptions,
): Promise<number> {
  return runSession(
    context,
    options,
    async (): Promise<Omit<RevertRequest, 'config'> & Partial<RevertRequest>> => ({
      domain,
      ...((await isSnapshotName(cfgfile)) ? {} : { config: await readConfigFile(cfgfile) }),
      running: options.running === true,
      force: options.force === true,
      accept: options.accept,
      keep: options.keep === true,
      timeoutMs: options.timeout === undefined ? undefined : options.timeout * 1000,
      otherOptions: [
        ...(options.dir ?? []).flatMap((directory) => ['--dir', directory]),
        ...(options.untestedXen === true ? ['--untested-xen'] : []),
        ...(options.dryRun === true ? ['--dry-run'] : []),
        ...(options.json === true ? ['--json'] : []),
        ...(options.quiet === true ? ['--quiet'] : []),
      ],
    }),
    async (session, given) => {
      const named = { domain, name: cfgfile, directories: options.dir };
      const config = given.config ?? (await session.calls.findSnapshotConfig(session.host, named));
      const request = { ...given, config, ...(given.config === undefined ? { named: cfgfile } : {}) };
      if (options.dryRun === true) {
        const plan = await session.calls
          .planRevert(session.host, request, session.options)
          .catch((error: unknown) => {
            const risky = error instanceof RiskError ? planOf(error) : undefined;
            if (risky !== undefined && options.json !== true) {
              session.reporter.clear();
              context.stdout.write(`${printable(revertPlanText(risky))}\n`);
            }
            throw error;
          });
        return options.json === true ? jsonLine('revert_plan', plan) : revertPlanText(plan);
      }
      const result = await session.calls.revertSnapshot(session.host, request, session.options);
      for (const warning of result.warnings) session.reporter.log('warning', warning);
      return options.json === true ? jsonLine('revert_result', result) : revertResultText(result);
    },
  );
}

/** The plan that would be carried out if the risks were accepted. */
function planOf({ data }: RiskError): RevertPlan | undefined {
  return data['plan'] as RevertPlan | undefined;
}
