/** Runs `xlsnap doctor`. */
import { EXIT } from '../../core/errors.ts';
import type { CliContext } from '../context.ts';
import { doctorText } from '../doctor-text.ts';
import { runLocal } from '../local.ts';
import { hasColour } from '../progress.ts';
import { columnsOf } from '../text.ts';

export interface DoctorOptions {
  readonly json?: boolean;
  readonly untestedXen?: boolean;
}

/** Runs `xlsnap doctor`; returns the exit code: 0 only if all is well. The report is printed in either case. */
export function doctor(
  context: CliContext,
  domain: string | undefined,
  { json, untestedXen }: DoctorOptions,
): Promise<number> {
  return runLocal(context, { json, quiet: true }, async ({ print }) => {
    const report = await context.runDoctor(domain, { untestedXen: untestedXen === true });
    const { stdout, env } = context;
    const layout = { columns: columnsOf(stdout), colour: hasColour(stdout, env) };
    print('doctor_result', report, () => doctorText(report, layout), { styled: true });
    if (report.checks.some(({ status }) => status === 'failed')) return EXIT.environment;
    return report.ok ? EXIT.ok : EXIT.preflight;
  });
}
