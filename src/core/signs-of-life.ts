/**
 * Lets work that is bounded in time report progress, and find out that it has been given up. This follows the promises of
 * a call, since there may be any number of ports between the two.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

/** The caller that waits for bounded work. */
interface Waiter {
  readonly progress: () => void;
  readonly givenUp: AbortSignal;
  /** Whether the work needs to clean up when it is given up. */
  tidies: boolean;
}

const waiters = new AsyncLocalStorage<Waiter>();

/** How long work that is given up may take to clean up. */
const TIDY_MS = 5000;

/** Reports progress of the current work, whose time-out starts again. Does nothing if it is not bounded. */
export function showProgress(): void {
  waiters.getStore()?.progress();
}

/** Tells whether the current work is bounded. */
export function isBounded(): boolean {
  return waiters.getStore() !== undefined;
}

/** Returns a signal that is aborted when the current work is given up; it then has some seconds to clean up. `undefined` if it is not bounded. */
export function givenUpSignal(): AbortSignal | undefined {
  const waiter = waiters.getStore();
  if (waiter === undefined) return undefined;
  waiter.tidies = true;
  return waiter.givenUp;
}

/**
 * Waits for `work`, until it has made no progress for too long. The work itself is not stopped; what becomes of it
 * afterwards is ignored.
 * @param onTimeout makes the error to throw
 */
export async function whileItProgresses<T>(
  work: () => Promise<T>,
  timeoutMs: number,
  onTimeout: () => Error,
): Promise<T> {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let over = false;
  let onOver = (): void => {};
  const limit = new Promise<void>((resolve) => {
    onOver = resolve;
  });
  const arm = (): void => {
    clearTimeout(timer);
    if (!over) timer = setTimeout(onOver, timeoutMs);
  };
  const waiter: Waiter = { progress: arm, givenUp: controller.signal, tidies: false };
  const done = waiters.run(waiter, work);
  // It may fail later, when nobody waits any more.
  done.catch(() => {});
  arm();
  try {
    const outcome = await Promise.race([done.then((value) => ({ value })), limit]);
    if (outcome !== undefined) return outcome.value;
    controller.abort();
    if (waiter.tidies) {
      let tidied: NodeJS.Timeout | undefined;
      const time = new Promise<void>((resolve) => {
        tidied = setTimeout(resolve, TIDY_MS);
      });
      // It may have finished at the last moment.
      const late = await Promise.race([done.then((value) => ({ value })).catch(() => undefined), time]);
      clearTimeout(tidied);
      if (late !== undefined) return late.value;
    }
    throw onTimeout();
  } finally {
    over = true;
    clearTimeout(timer);
  }
}
