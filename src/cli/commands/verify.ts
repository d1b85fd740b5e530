/** Runs `xlsnap verify`. */
import { EXIT } from '../../core/errors.ts';
import { findingText } from '../../memfile/verify.ts';
import { verifyMemoryFile } from '../../toolstack/memory-file.ts';
import type { CliContext } from '../context.ts';
import { runLocal } from '../local.ts';
import { verifyResultText } from '../output.ts';

export interface VerifyFileOptions {
  readonly json?: boolean;
}

/** Runs `xlsnap verify`; needs no Xen. Returns the exit code: `format` if the file is damaged. */
export function verifyFile(
  context: CliContext,
  path: string,
  { json = false }: VerifyFileOptions,
): Promise<number> {
  // A bar on a terminal, since reading takes a while; nothing else but the result.
  const local = { json, quiet: json, interruptible: true };
  return runLocal(context, local, async ({ reporter, signal, print }) => {
    const report = await verifyMemoryFile(path, { reporter, signal });
    reporter.clear();
    for (const warning of report.warnings) reporter.log('warning', findingText(warning));
    print('verify_result', report, (columns) => verifyResultText(report, columns));
    return EXIT.ok;
  });
}
