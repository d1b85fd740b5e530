import { describeError, InterruptedError, throwIfAborted, XlsnapError } from '../core/errors.ts';
import { type Reporter, silentReporter } from '../core/reporter.ts';
import type { CallOptions, PhaseTiming } from './types.ts';

interface Undo {
  readonly what: string;
  readonly byHand: string;
  readonly run: () => Promise<void>;
}

/** A bug or a stranger's error, wrapped so that it can tell phase and undos. */
class UnexpectedError extends XlsnapError {
  readonly exitCode = 1;
}

/**
 * Runs the phases of create and revert one after the other: times them, reports them, and keeps the undo of each step
 * that took effect. On failure `fail` undoes in reverse and tells so in the first error.
 */
export class Phases {
  readonly timings: PhaseTiming[] = [];
  readonly reporter: Reporter;
  #signal: AbortSignal | undefined;
  readonly #undos: Undo[] = [];
  readonly #begin = performance.now();
  #current = 'plan';

  constructor(options: CallOptions) {
    this.reporter = options.reporter ?? silentReporter;
    this.#signal = options.signal;
  }

  /** Since this was made, which is when the call began. */
  get seconds(): number {
    return (performance.now() - this.#begin) / 1000;
  }

  /**
   * Runs one phase. An error that comes out carries the phase's name.
   * @throws InterruptedError before `body` starts when the signal is aborted.
   */
  async run<T>(name: string, body: () => Promise<T>): Promise<T> {
    this.#current = name;
    throwIfAborted(this.#signal);
    this.reporter.phase(name, 'start');
    const startSeconds = this.seconds;
    try {
      const result = await body();
      const seconds = this.seconds - startSeconds;
      this.timings.push({ name, startSeconds, seconds });
      this.reporter.phase(name, 'end', seconds);
      return result;
    } catch (error) {
      this.reporter.phase(name, 'failed', this.seconds - startSeconds);
      throw error;
    }
  }

  /** @throws InterruptedError when the signal is aborted. */
  checkpoint(): void {
    throwIfAborted(this.#signal);
  }

  /** From here on the signal is not heeded: what is left is less work than to take everything back. */
  shield(): void {
    this.#signal = undefined;
  }

  /**
   * Remembers how to undo a step. Call it *before* a step that may take effect and still fail, and right after one
   * that is all or nothing.
   * @param what past participle, for the report: `resumed the guest`
   * @param byHand what an administrator does when the undo fails
   * @returns forgets this undo
   */
  onUndo(what: string, byHand: string, run: () => Promise<void>): () => void {
    const undo = { what, byHand, run };
    this.#undos.push(undo);
    return () => {
      const at = this.#undos.indexOf(undo);
      if (at >= 0) this.#undos.splice(at, 1);
    };
  }

  /** Undoes everything in reverse; gives the error to throw, which is the first one, with what was undone. */
  async fail(error: unknown): Promise<XlsnapError> {
    const undone: string[] = [];
    const failures: string[] = [];
    for (const undo of this.#undos.splice(0).reverse()) {
      try {
        await undo.run();
        undone.push(undo.what);
      } catch (problem) {
        failures.push(`not ${undo.what} (${describeError(problem)}); by hand: ${undo.byHand}`);
      }
    }
    const first = this.#typed(error);
    first.phase ??= this.#current;
    first.undone = [...first.undone, ...undone];
    first.undoFailures = [...first.undoFailures, ...failures];
    return first;
  }

  #typed(error: unknown): XlsnapError {
    if (error instanceof XlsnapError) return error;
    if (this.#signal?.aborted) {
      return new InterruptedError('INTERRUPTED', 'interrupted', { cause: error });
    }
    return new UnexpectedError('UNEXPECTED', describeError(error), { cause: error });
  }
}
