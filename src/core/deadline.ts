/** Bounds promises by time and by an AbortSignal. */
import { InterruptedError, throwIfAborted } from './errors.ts';

/** How long a call may take. */
export interface Limits {
  /** Milliseconds; absent or Infinity: no limit. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Waits for `work`, unless a limit is reached first. The work itself is not stopped; what becomes of it
 * afterwards is ignored.
 *
 * @param onTimeout makes the error to throw when the time is over.
 * @throws {InterruptedError} If the signal is aborted
 */
export async function within<T>(work: Promise<T>, limits: Limits, onTimeout: () => Error): Promise<T> {
  const { timeoutMs = Number.POSITIVE_INFINITY, signal } = limits;
  // The work may fail later, when nobody waits any more.
  work.catch(() => {});
  throwIfAborted(signal);
  let timer: NodeJS.Timeout | undefined;
  let stop = (): void => {};
  const limit = new Promise<never>((_, reject) => {
    if (Number.isFinite(timeoutMs)) timer = setTimeout(() => reject(onTimeout()), timeoutMs);
    stop = () => reject(new InterruptedError('INTERRUPTED', 'interrupted', { cause: signal?.reason }));
    signal?.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}
