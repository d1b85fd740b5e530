/** Watches from outside how long a guest is stopped. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Domid } from '../core/brand.ts';
import type { Hypervisor } from '../snapshot/ports.ts';
import type { SeenStop } from './types.ts';

/** Pause between two samples. */
const POLL_MS = 1;
/** During a stop the pause is this share of the time since it began, since sampling takes time from what is measured. */
const STOPPED_SHARE = 1 / 100;
/** The longest pause. */
const STOPPED_POLL_MS = 10;

/** One sample of the domain's state: when it began and ended, in milliseconds of `performance.now()`, and its result. */
export interface Look {
  readonly from: number;
  readonly to: number;
  readonly stopped: boolean;
}

/**
 * Samples a domain's state from outside to find out when it is stopped, in the same way for any program that stops it. A
 * sample takes about 0.3 ms, with 1 ms between two samples, and more during a long stop; a busy machine makes both longer.
 */
export class GuestWatch implements AsyncDisposable {
  readonly #hypervisor: Pick<Hypervisor, 'domainState'>;
  readonly #domid: Domid;
  /** The samples before and after each change, and the first and the last. */
  readonly #looks: Look[] = [];
  readonly #over = new AbortController();
  readonly #watching: Promise<void>;

  constructor(hypervisor: Pick<Hypervisor, 'domainState'>, domid: Domid) {
    this.#hypervisor = hypervisor;
    this.#domid = domid;
    this.#watching = this.#watch();
    // `end` reports it.
    this.#watching.catch(() => {});
  }

  /**
   * Ends the watch.
   * @returns the samples, for `stopOf`
   */
  async end(): Promise<readonly Look[]> {
    this.#over.abort();
    await this.#watching;
    return this.#looks;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end().catch(() => undefined);
  }

  async #watch(): Promise<void> {
    let running = performance.now();
    while (!this.#over.signal.aborted) {
      const from = performance.now();
      const state = await this.#hypervisor.domainState(this.#domid);
      const stopped = state !== undefined && (state.paused || state.shutdown !== undefined);
      this.#note({ from, to: performance.now(), stopped });
      if (!stopped) running = from;
      await sleep(pauseAfter(from - running));
    }
  }

  #note(look: Look): void {
    const [before, last] = this.#looks.slice(-2);
    if (last !== undefined && before?.stopped === look.stopped && last.stopped === look.stopped)
      this.#looks.pop();
    this.#looks.push(look);
  }
}

/** The pause before the next sample, when the guest has been stopped for so long; all in milliseconds. */
export function pauseAfter(stopped: number): number {
  return Math.min(Math.max(POLL_MS, stopped * STOPPED_SHARE), STOPPED_POLL_MS);
}

/**
 * Sums up how long the guest was stopped. Each end of a stop is between two samples; the middle is taken.
 * @param looks in order; of several with the same result, all but the first and the last may be missing
 * @param startMs the time that the result's times count from
 * @returns `undefined` if no complete stop was seen
 */
export function stopOf(looks: readonly Look[], startMs: number): SeenStop | undefined {
  let start: number | undefined;
  let ms = 0;
  let unsure = 0;
  for (const [at, look] of looks.entries()) {
    const before = looks[at - 1];
    if (before === undefined || before.stopped === look.stopped) continue;
    const middle = (before.from + look.to) / 2;
    unsure += (look.to - before.from) / 2;
    start ??= middle;
    ms += look.stopped ? -middle : middle;
  }
  if (start === undefined || looks.at(-1)?.stopped === true || looks[0]?.stopped === true) return undefined;
  return { startSeconds: (start - startMs) / 1000, seconds: ms / 1000, plusMinusSeconds: unsure / 1000 };
}
