/** SIGINT, SIGTERM and SIGHUP during a command. */
import { EXIT, XlsnapError } from '../core/errors.ts';
import { type CliContext, ENDING_SIGNALS, type EndingSignal } from './context.ts';

/** The signals of the operating system as an AbortSignal. */
export interface Interruption {
  readonly signal: AbortSignal;
  /** Returns the exit code for an error: 128 + n if it was caused by signal n. */
  exitCodeOf(error: unknown, otherwise: number): number;
  [Symbol.dispose](): void;
}

/** Makes SIGINT, SIGTERM and SIGHUP abort the signal; later ones kill nothing while the work is being undone. */
export function catchSignals(context: CliContext, say: (message: string) => void): Interruption {
  const controller = new AbortController();
  let received: EndingSignal | undefined;
  const stop = context.onSignal((name) => {
    if (received === undefined) {
      received = name;
      say(`${name}: stopping; undoing what was done so far`);
      controller.abort(new Error(name));
    } else say(`${name}: still undoing; killing xlsnap now could leave the guest stopped`);
  });
  return {
    signal: controller.signal,
    exitCodeOf(error, otherwise) {
      const answers = error instanceof XlsnapError && error.exitCode === EXIT.interrupted;
      return received !== undefined && answers ? 128 + ENDING_SIGNALS[received] : otherwise;
    },
    [Symbol.dispose]: stop,
  };
}
