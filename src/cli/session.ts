/** What commands that need a host have in common: arguments, signals, progress, output, errors. */
import type { CallOptions } from '../core/call-options.ts';
import { describeError, EXIT } from '../core/errors.ts';
import type { Host } from '../snapshot/ports.ts';
import type { CliContext, SnapshotCalls } from './context.ts';
import { type CliReporter, makeReporter } from './progress.ts';
import { reportError } from './report-error.ts';
import { catchSignals } from './signals.ts';
import { columnsOf, foldText, printable } from './text.ts';

/** What a command prints. */
export interface Printed {
  readonly text: string;
  /** Where to print it if not on stdout, which then carries the memory. */
  readonly to: 'stderr';
}

/** Options that every command has. */
export interface CommonOptions {
  readonly json?: boolean | undefined;
  readonly quiet?: boolean | undefined;
  readonly untestedXen?: boolean | undefined;
}

/** What a command works with. */
export interface Session {
  readonly host: Host;
  readonly calls: SnapshotCalls;
  readonly options: Required<Pick<CallOptions, 'reporter' | 'signal'>>;
  readonly reporter: CliReporter;
}

/**
 * Opens the host, runs `body`, and prints the text that it returns on stdout. Errors go to stderr.
 * @param prepare checks the arguments and reads the cfgfile, before anything heavy is loaded
 * @returns the exit code
 */
export async function runSession<Request>(
  context: CliContext,
  common: CommonOptions,
  prepare: (reporter: CliReporter) => Promise<Request>,
  body: (session: Session, request: Request) => Promise<string | Printed>,
): Promise<number> {
  const json = common.json === true;
  const warned = new Set<string>();
  const inner = makeReporter(context, { json, quiet: common.quiet === true });
  const standstill = new Standstill(context);
  const reporter: CliReporter = {
    ...inner,
    phase(name, event, seconds) {
      // From before the guest is asked to suspend until it runs again.
      if (name === 'suspend' && event === 'start') standstill.begin();
      inner.phase(name, event, seconds);
      if (name === 'resume' && event === 'end') standstill.end();
    },
    log(level, message, fields) {
      // A warning may be reported while the work runs, and again with the result.
      if (level === 'warning' && warned.has(message)) return;
      if (level === 'warning') warned.add(message);
      inner.log(level, message, fields);
    },
  };
  using interruption = catchSignals(context, (message) => reporter.log('warning', message));
  // Also on failure: everything is undone by then.
  using _standstill = standstill;
  try {
    const request = await prepare(reporter);
    const calls = await context.loadCalls();
    const host = await context.openHost({ untestedXen: common.untestedXen === true });
    try {
      const options = { reporter, signal: interruption.signal };
      const printed = await body({ host, calls, options, reporter }, request);
      reporter.clear();
      const text = typeof printed === 'string' ? printed : printed.text;
      const stream = typeof printed === 'string' ? context.stdout : context.stderr;
      stream.write(`${json ? text : foldText(printable(text), columnsOf(stream))}\n`);
    } finally {
      await close(host, reporter);
    }
    return EXIT.ok;
  } catch (error) {
    reporter.clear();
    return interruption.exitCodeOf(error, reportError(context, error, json));
  }
}

/** Keeps a terminal from stopping this process while a guest is stopped. */
class Standstill implements Disposable {
  readonly #context: CliContext;
  #goOn: (() => void) | undefined;

  constructor(context: CliContext) {
    this.#context = context;
  }

  begin(): void {
    this.#context.stderr.hold?.(true);
    this.#goOn ??= this.#context.deferStops();
  }

  end(): void {
    // In this order: a write that a terminal stops is retried for ever while its signal is caught.
    this.#goOn?.();
    this.#goOn = undefined;
    this.#context.stderr.hold?.(false);
  }

  [Symbol.dispose](): void {
    this.end();
  }
}

/** Closes the host. A failure changes nothing about the result, and must not hide an earlier error. */
async function close(host: Host, reporter: CliReporter): Promise<void> {
  try {
    await host[Symbol.asyncDispose]();
  } catch (error) {
    reporter.log('warning', `closing: ${describeError(error)}`);
  }
}
