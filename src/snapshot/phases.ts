/** Runs the phases of an operation, with time-outs, interruption and undo. */
import type { CallOptions } from '../core/call-options.ts';
import {
  describeError,
  EnvironmentError,
  InterruptedError,
  throwIfAborted,
  XlsnapError,
} from '../core/errors.ts';
import { type Reporter, silentReporter } from '../core/reporter.ts';
import { whileItProgresses } from '../core/signs-of-life.ts';
import type { PhaseTiming } from '../memfile/manifest.ts';

/** Longer than any adapter waits by itself, as for a guest that has acknowledged a suspend, or a QEMU command. */
const DEFAULT_GRACE_MS = 90_000;
/** Of one undo, without progress; in it there may be more than one such wait. */
const DEFAULT_UNDO_TIMEOUT_MS = 150_000;

interface Undo {
  readonly first: boolean;
  readonly what: string;
  readonly byHand: string;
  readonly run: (failed: boolean) => Promise<unknown>;
}

/** A bug or a foreign error, wrapped so that it can carry the phase and the undos. */
class UnexpectedError extends XlsnapError {
  readonly exitCode = 1;
}

/**
 * Runs the phases of an operation one after the other: times them, reports them, and keeps the undo of each step
 * that took effect. On failure, `fail` undoes in reverse order and adds that to the first error.
 */
export class Phases {
  readonly timings: PhaseTiming[] = [];
  readonly reporter: Reporter;
  readonly #graceMs: number;
  readonly #undoTimeoutMs: number;
  #signal: AbortSignal | undefined;
  readonly #undos: Undo[] = [];
  readonly #begin = performance.now();
  readonly #undone: string[] = [];
  readonly #failures: string[] = [];
  #first: Promise<void> = Promise.resolve();
  readonly #given: Promise<unknown>[] = [];
  #current = 'plan';

  constructor(options: CallOptions) {
    this.reporter = options.reporter ?? silentReporter;
    this.#signal = options.signal;
    this.#graceMs = options.graceMs ?? DEFAULT_GRACE_MS;
    this.#undoTimeoutMs = options.undoTimeoutMs ?? DEFAULT_UNDO_TIMEOUT_MS;
  }

  /** Resolves once the steps that were given up, if any, have ended: what they use must stay open until then. */
  get hanging(): Promise<unknown> | undefined {
    return this.#given.length === 0 ? undefined : Promise.allSettled(this.#given);
  }

  /** Seconds since this was created, which is when the call began. */
  get seconds(): number {
    return (performance.now() - this.#begin) / 1000;
  }

  /**
   * Runs one phase. An error that comes out carries the phase's name.
   * @throws {InterruptedError} If the signal is aborted before `body` starts; later, if `body` does not end although
   * the signal was aborted
   */
  async run<T>(
    name: string,
    body: () => Promise<T>,
    options: { readonly releaseOnAbort?: boolean } = {},
  ): Promise<T> {
    this.#current = name;
    throwIfAborted(this.#signal);
    this.reporter.phase(name, 'start');
    const startSeconds = this.seconds;
    try {
      const result = await this.step(body, options);
      const seconds = this.seconds - startSeconds;
      this.timings.push({ name, startSeconds, seconds });
      this.reporter.phase(name, 'end', seconds);
      return result;
    } catch (error) {
      this.reporter.phase(name, 'failed', this.seconds - startSeconds);
      throw error;
    }
  }

  /**
   * A step between phases. Once the signal is aborted, the step has some time to end by itself; then it is given up,
   * since a call that hangs must not keep the guest stopped.
   * @throws {InterruptedError} If it was given up
   */
  async step<T>(
    body: () => Promise<T>,
    { releaseOnAbort = false }: { readonly releaseOnAbort?: boolean } = {},
  ): Promise<T> {
    const signal = this.#signal;
    const work = body();
    if (signal === undefined) return await work;
    let timer: NodeJS.Timeout | undefined;
    let onAbort = (): void => {};
    const givenUp = new Promise<never>((_, reject) => {
      onAbort = () => {
        if (releaseOnAbort) void this.undoFirst();
        timer ??= setTimeout(() => {
          this.#giveUp(work);
          reject(new InterruptedError('INTERRUPTED', 'interrupted', { cause: signal.reason }));
        }, this.#graceMs);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
    });
    try {
      return await Promise.race([work, givenUp]);
    } catch (error) {
      // A failure that was caused by resuming the guest is not the reason.
      if (!releaseOnAbort || !signal.aborted || error instanceof InterruptedError) throw error;
      throw new InterruptedError('INTERRUPTED', 'interrupted', { cause: error });
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    }
  }

  /**
   * Checks whether the work is to end.
   * @throws {InterruptedError} If the signal is aborted
   */
  checkpoint(): void {
    throwIfAborted(this.#signal);
  }

  /** Ignores the signal from here on: finishing is less work than undoing everything. */
  shield(): void {
    this.#signal = undefined;
  }

  /**
   * Runs `work`, which may take as long as an undo, or `maxMs`; longer while it makes progress.
   * @param hangs makes the error to throw if it takes longer than so many milliseconds
   */
  bounded<T>(work: () => Promise<T>, maxMs = Number.POSITIVE_INFINITY, hangs = hangsError): Promise<T> {
    const timeoutMs = Math.min(maxMs, this.#undoTimeoutMs);
    return whileItProgresses(work, timeoutMs, () => hangs(timeoutMs));
  }

  /**
   * Registers the undo of a step. Call it *before* a step that may take effect and still fail, and right after one
   * that is all or nothing.
   * @param what past participle, for the report: `resumed the guest`
   * @param byHand what an administrator should do if the undo fails, or takes too long
   * @param run receives whether an earlier undo has failed; gives `false` if there was nothing to undo
   * @param options `first`: runs before all others, whatever its place: a guest waits for it
   * @returns a function that forgets this undo
   */
  onUndo(
    what: string,
    byHand: string,
    run: (failed: boolean) => Promise<unknown>,
    { first = false }: { readonly first?: boolean } = {},
  ): () => void {
    const undo = { what, byHand, run, first };
    this.#undos.push(undo);
    return () => {
      const at = this.#undos.indexOf(undo);
      if (at >= 0) this.#undos.splice(at, 1);
    };
  }

  /** Undoes everything in reverse order; returns the error to throw: the first one, with what was undone. */
  async fail(error: unknown): Promise<XlsnapError> {
    const { undone, failures } = await this.undo();
    const first = this.#typed(error);
    first.phase ??= this.#current;
    first.undone = [...first.undone, ...undone];
    first.undoFailures = [...first.undoFailures, ...failures];
    return first;
  }

  /** Runs the undos registered as `first`, unless that has already begun; `fail` and `undo` report them. */
  async undoFirst(): Promise<void> {
    const first = this.#undos.filter((undo) => undo.first).reverse();
    const rest = this.#undos.filter((undo) => !undo.first);
    this.#undos.splice(0, this.#undos.length, ...rest);
    this.#first = this.#first.then(() => this.#undoAll(first));
    await this.#first;
  }

  /** Undoes everything, whatever fails: first those registered as `first`, then the others in reverse order. */
  async undo(): Promise<{ undone: readonly string[]; failures: readonly string[] }> {
    await this.undoFirst();
    await this.#undoAll(this.#undos.splice(0).reverse());
    return { undone: this.#undone.splice(0), failures: this.#failures.splice(0) };
  }

  async #undoAll(undos: readonly Undo[]): Promise<void> {
    for (const undo of undos) {
      try {
        const outcome = await this.bounded(() => undo.run(this.#failures.length > 0));
        if (outcome !== false) this.#undone.push(undo.what);
      } catch (problem) {
        this.#failures.push(`not ${undo.what} (${describeError(problem)}); by hand: ${undo.byHand}`);
      }
    }
  }

  #giveUp(work: Promise<unknown>): void {
    this.#given.push(work);
    // A step that only reads does no harm, whenever it ends.
    if (this.#undos.length > 0)
      this.#failures.push(
        `phase ${this.#current} did not end within ${this.#graceMs / 1000} s after the interruption: what it is waiting for ` +
          'may still take effect; by hand: find what hangs (QEMU, xl, a file server), then check the domain and its disks',
      );
    // A lock that is granted after all is released.
    work.then(
      (late) => {
        if (isDisposable(late)) late[Symbol.asyncDispose]().then(undefined, () => {});
      },
      () => {},
    );
  }

  #typed(error: unknown): XlsnapError {
    if (error instanceof XlsnapError) return error;
    if (this.#signal?.aborted) {
      return new InterruptedError('INTERRUPTED', 'interrupted', { cause: error });
    }
    return new UnexpectedError('UNEXPECTED', describeError(error), { cause: error });
  }
}

function isDisposable(value: unknown): value is AsyncDisposable {
  return typeof value === 'object' && value !== null && Symbol.asyncDispose in value;
}

function hangsError(timeoutMs: number): XlsnapError {
  return new EnvironmentError('HANGS', `it made no progress for ${timeoutMs / 1000} s`);
}
