/** Runs `xlsnap bench`. */
import { DEFAULT_PATHS, parsePaths } from '../../bench/paths.ts';
import type { BenchRequest } from '../../bench/types.ts';
import { OutputError } from '../../core/errors.ts';
import { exists } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { writeWhole } from '../../snapshot/output/file.ts';
import { benchResultText } from '../bench-text.ts';
import type { CliContext } from '../context.ts';
import { type CommonOptions, runSession } from '../session.ts';
import { columnsOf, jsonLine } from '../text.ts';

import { version } from '../version.ts';

const DEFAULT_ROUNDS = 5;

export interface BenchOptions extends CommonOptions {
  readonly paths?: string;
  readonly rounds?: number;
  readonly dir?: string;
  readonly report?: string;
}

/** Runs `xlsnap bench`; returns the exit code. */
export function bench(context: CliContext, domain: string, options: BenchOptions): Promise<number> {
  return runSession(
    context,
    options,
    async () => await requestOf(context, domain, options),
    async (session, request) => {
      const { runBench, benchReport } = await context.loadBench();
      const result = await runBench(session.host, request, session.options);
      if (options.report !== undefined) {
        await writeWhole(options.report, benchReport(result, commandLine(domain, options)));
      }
      return options.json === true
        ? jsonLine('bench_result', result)
        : benchResultText(result, options.report, columnsOf(context.stdout));
    },
  );
}

async function requestOf(
  { own }: CliContext,
  domain: string,
  { paths, rounds, dir, report, untestedXen }: BenchOptions,
): Promise<BenchRequest> {
  // Now, not after all the measuring.
  if (report !== undefined && (await exists(report))) {
    throw new OutputError('OUTPUT_EXISTS', `${report} already exists`, {
      hint: 'files are never replaced: choose another name or remove it',
    });
  }
  return {
    domain,
    paths: parsePaths(paths ?? DEFAULT_PATHS),
    rounds: rounds ?? DEFAULT_ROUNDS,
    own,
    version: version(),
    createOptions: untestedXen === true ? ['--untested-xen'] : undefined,
    directory: dir,
  };
}

/** The command that was run, as far as it affects the figures. */
function commandLine(domain: string, { paths, rounds, dir }: BenchOptions): string {
  return [
    'xlsnap',
    'bench',
    domain,
    ...(paths === undefined ? [] : ['--paths', paths]),
    ...(rounds === undefined ? [] : ['--rounds', String(rounds)]),
    ...(dir === undefined ? [] : ['--dir', dir]),
  ]
    .map(shellQuote)
    .join(' ');
}
