import { findingText, verifyMemoryFile } from '../../memfile/verify.ts';
import type { CliContext } from '../context.ts';
import { verifyResultText } from '../output.ts';
import { makeReporter } from '../progress.ts';
import { reportError } from '../report-error.ts';
import { catchSignals } from '../signals.ts';
import { jsonLine, printable } from '../text.ts';

export interface VerifyFileOptions {
  readonly json?: boolean;
}

/** Runs `xlsnap verify`; needs no Xen. Returns the exit code: `format` if the file is damaged. */
export async function verifyFile(
  context: CliContext,
  path: string,
  options: VerifyFileOptions,
): Promise<number> {
  const json = options.json === true;
  // A bar on a terminal, since reading takes a while; nothing else but the result.
  const reporter = makeReporter(context, { json, quiet: json });
  using interruption = catchSignals(context, () => {});
  try {
    const report = await verifyMemoryFile(path, { reporter, signal: interruption.signal });
    reporter.clear();
    for (const warning of report.warnings) reporter.log('warning', findingText(warning));
    const text = json ? jsonLine('verify_result', report) : printable(verifyResultText(report));
    context.stdout.write(`${text}\n`);
    return 0;
  } catch (error) {
    reporter.clear();
    return interruption.exitCodeOf(error, reportError(context, error, json));
  }
}
