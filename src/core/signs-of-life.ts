/**
 * Work that is bounded in time says here that it makes progress, and hears here that it is given up. It goes along with the
 * promises of a call, since there may be any number of ports between the two.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

/** Whoever waits for bounded work. */
interface Waiter {
  readonly progress: () => void;
  readonly givenUp: AbortSignal;
  /** Whether the work wants to tidy up when it is given up. */
  tidies: boolean;
}

const waiters = new AsyncLocalStorage<Waiter>();

/** How long work that is given up may take to tidy up. */
const TIDY_MS = 5000;

/** The work that is going on has got further: its time begins again. Does nothing where nobody has bounded it. */
export function showProgress(): void {
  waiters.getStore()?.progress();
}

/** Whether anyone has bounded the work that is going on. */
export function isBounded(): boolean {
  return waiters.getStore() !== undefined;
}

/** Aborted when the work that is going on is given up; it then has some seconds to tidy up. `undefined`: nobody will. */
export function givenUpSignal(): AbortSignal | undefined {
  const waiter = waiters.getStore();
  if (waiter === undefined) return undefined;
  waiter.tidies = true;
  return waiter.givenUp;
}

/**
 * The outcome of `work`, unless it makes no progress for so long. The work itself is not stopped; what becomes of it
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
  // It may fail later, when nobody listens any more.
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
      // Over at the last moment after all, perhaps.
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
