import { EXIT } from '../../core/errors.ts';
import type { CliContext } from '../context.ts';
import { doctorText } from '../doctor-text.ts';
import { hasColour } from '../progress.ts';
import { reportError } from '../report-error.ts';
import { columnsOf, jsonLine } from '../text.ts';

export interface DoctorOptions {
  readonly json?: boolean;
  readonly untestedXen?: boolean;
}

/** Runs `xlsnap doctor`; returns the exit code: 0 only if all is well. The report is printed in either case. */
export async function doctor(
  context: CliContext,
  domain: string | undefined,
  options: DoctorOptions,
): Promise<number> {
  const json = options.json === true;
  try {
    const report = await context.runDoctor(domain, { untestedXen: options.untestedXen === true });
    const { stdout, env } = context;
    const layout = {
      columns: columnsOf(stdout),
      colour: hasColour(stdout, env),
    };
    stdout.write(`${json ? jsonLine('doctor_result', report) : doctorText(report, layout)}\n`);
    if (report.checks.some(({ status }) => status === 'failed')) return EXIT.environment;
    return report.ok ? EXIT.ok : EXIT.preflight;
  } catch (error) {
    return reportError(context, error, json);
  }
}
