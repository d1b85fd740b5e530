/** Runs `xlsnap bench`. */
import { compareBenches, readEarlierBench } from '../../bench/earlier.ts';
import { DEFAULT_PATHS, parsePaths } from '../../bench/paths.ts';
import type { BenchRequest, BenchResult } from '../../bench/types.ts';
import { OutputError } from '../../core/errors.ts';
import { exists } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { writeWhole } from '../../snapshot/output/file.ts';
import { benchResultText } from '../bench-text.ts';
import type { CliContext } from '../context.ts';
import { type CommonOptions, runSession } from '../session.ts';
import { columnsOf, jsonLine } from '../text.ts';

import { version } from '../version.ts';

/** The fewest from which an interval follows; three paths also follow each other equally often in them. */
const DEFAULT_ROUNDS = 6;

export interface BenchOptions extends CommonOptions {
  readonly paths?: string;
  readonly rounds?: number;
  readonly dir?: string;
  readonly report?: string;
  /** File with an earlier bench. */
  readonly baseline?: string;
}

/** Runs `xlsnap bench`; returns the exit code. */
export function bench(context: CliContext, domain: string, options: BenchOptions): Promise<number> {
  return runSession(
    context,
    options,
    async () => ({
      request: await requestOf(context, domain, options),
      earlier: options.baseline === undefined ? undefined : await readEarlierBench(options.baseline),
    }),
    async (session, { request, earlier }) => {
      const { runBench, benchReport } = await context.loadBench();
      const measured = await runBench(session.host, request, session.options);
      const result: BenchResult =
        earlier === undefined ? measured : { ...measured, earlier: compareBenches(measured, earlier) };
      const json = jsonLine('bench_result', result);
      if (options.report !== undefined) {
        await writeWhole(options.report, benchReport(result, commandLine(domain, options), json));
      }
      return options.json === true
        ? json
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
