import type { Limits } from '../core/deadline.ts';
import { EventQueue } from '../core/event-queue.ts';
import { QmpClosedError, QmpTimeoutError } from './errors.ts';
import type { QmpEvent } from './messages.ts';

/**
 * Collects the named events from the moment it is made: make it before the command that causes them.
 * It keeps all that is not taken, so dispose of it (`using`) as soon as it has served.
 */
export class QmpListener implements Disposable {
  readonly names: readonly string[];
  readonly #queue = new EventQueue<QmpEvent>();
  readonly #unregister: (listener: QmpListener) => void;

  /** Made by `QmpClient.listen`. */
  constructor(names: readonly string[], unregister: (listener: QmpListener) => void) {
    this.names = names;
    this.#unregister = unregister;
  }

  /** Called by the client. */
  deliver(event: QmpEvent): void {
    if (this.names.includes(event.event)) this.#queue.push(event);
  }

  /** Called by the client when the session is over. */
  end(error: Error): void {
    this.#queue.end(error);
  }

  /**
   * The oldest event not yet taken, or the next to come.
   * @throws QmpTimeoutError after `timeoutMs` (no limit by default), InterruptedError, or the error that ended the session.
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
