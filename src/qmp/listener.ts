/** Collects events of a QMP session. */
import type { Limits } from '../core/deadline.ts';
import { EventQueue } from '../core/event-queue.ts';
import { QmpClosedError, QmpTimeoutError } from './errors.ts';
import type { QmpEvent } from './messages.ts';

/**
 * Collects the named events from its creation on, so create it before the command that causes them. It keeps
 * every event until it is taken; dispose of it (`using`) as soon as it is no longer needed.
 */
export class QmpListener implements Disposable {
  readonly names: readonly string[];
  readonly #queue = new EventQueue<QmpEvent>();
  readonly #unregister: (listener: QmpListener) => void;

  /** Called by `QmpClient.listen`. */
  constructor(names: readonly string[], unregister: (listener: QmpListener) => void) {
    this.names = names;
    this.#unregister = unregister;
  }

  /** Adds an event. Called by the client. */
  deliver(event: QmpEvent): void {
    if (this.names.includes(event.event)) this.#queue.push(event);
  }

  /** Ends the queue. Called by the client when the session is over. */
  end(error: Error): void {
    this.#queue.end(error);
  }

  /**
   * Returns the oldest event not yet taken, or waits for the next. Rejects with the error that ended the
   * session, if it ends.
   * @throws {QmpTimeoutError} If no event comes within `timeoutMs`. Default: no limit.
   * @throws {InterruptedError} If the signal aborted.
   */
  next(limits: Limits = {}): Promise<QmpEvent> {
    return this.#queue.next(
      limits,
      () =>
        new QmpTimeoutError(`QEMU sent no event ${this.names.join(' or ')} within ${limits.timeoutMs} ms`),
    );
  }

  [Symbol.dispose](): void {
    this.#unregister(this);
    this.end(new QmpClosedError(`the listener for ${this.names.join(', ')} is closed`));
  }
}
