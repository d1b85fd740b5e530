/** What commands that need no host have in common: progress, output, errors, and signals where they take long. */
import type { ExitCode } from '../core/errors.ts';
import type { CliContext } from './context.ts';
import { type CliReporter, makeReporter } from './progress.ts';
import { reportError } from './report-error.ts';
import type { CommonOptions } from './session.ts';
import { catchSignals } from './signals.ts';
import { columnsOf, foldText, jsonLine, printable } from './text.ts';

export interface LocalOptions extends CommonOptions {
  /** Whether the command heeds `signal`; otherwise a signal ends the process, as usual. */
  readonly interruptible?: boolean;
}

/** What such a command works with. */
export interface LocalWork {
  readonly reporter: CliReporter;
  readonly signal: AbortSignal | undefined;
  /**
   * Prints the result on stdout: as text, or with `--json` as one object on one line.
   * @param options `styled`: the text has colours of its own, and no control characters besides
   */
  print(
    messageType: string,
    result: object,
    text: (columns: number | undefined) => string,
    options?: { readonly styled: boolean },
  ): void;
}

/**
 * Runs `body`. Errors go to stderr.
 * @param body returns the exit code
 * @returns the exit code
 */
export async function runLocal(
  context: CliContext,
  { json = false, quiet = false, interruptible = false }: LocalOptions,
  body: (work: LocalWork) => Promise<ExitCode>,
): Promise<number> {
  const reporter = makeReporter(context, { json, quiet });
  using interruption = interruptible ? catchSignals(context, () => {}) : undefined;
  const print: LocalWork['print'] = (messageType, result, text, { styled } = { styled: false }) => {
    reporter.clear();
    const columns = columnsOf(context.stdout);
    const plain = (): string => foldText(printable(text(columns)), columns);
    const shown = json ? jsonLine(messageType, result) : styled ? text(columns) : plain();
    context.stdout.write(`${shown}\n`);
  };
  try {
    return await body({ reporter, signal: interruption?.signal, print });
  } catch (error) {
    reporter.clear();
    const exitCode = reportError(context, error, json);
    return interruption?.exitCodeOf(error, exitCode) ?? exitCode;
  }
}
