import type { Limits } from '../core/deadline.ts';
import { EventQueue } from '../core/event-queue.ts';
import type { WatchTarget } from './connection.ts';
import { XenstoreClosedError, XenstoreTimeoutError } from './errors.ts';

/**
 * Tells when something changes at or below a path. The first event comes at once, for the path itself. Events say
 * that something may have changed, not what it is now: read it. Equal events that wait to be taken are one.
 * Made by `XenstoreClient.watch`.
 */
export class XenstoreWatch implements WatchTarget, AsyncIterable<string>, AsyncDisposable {
  /** What is watched. */
  readonly path: string;
  readonly #queue = new EventQueue<string>();
  readonly #unwatch: () => Promise<void>;
  #disposed = false;

  constructor(path: string, unwatch: () => Promise<void>) {
    this.path = path;
    this.#unwatch = unwatch;
  }

  /** Called by the connection. */
  event(path: string): void {
    if (!this.#queue.pending.includes(path)) this.#queue.push(path);
  }

  /** Called by the connection. */
  end(error: Error): void {
    this.#queue.end(error);
  }

  /**
   * The path of the next change.
   * @throws XenstoreTimeoutError after `timeoutMs` (no limit by default), XenstoreClosedError, InterruptedError.
   */
  next(limits: Limits = {}): Promise<string> {
    return this.#queue.next(
      limits,
      () => new XenstoreTimeoutError(`nothing changed at ${this.path} within ${limits.timeoutMs} ms`),
    );
  }

  /** Ends when the watch is disposed of; throws when the connection ends. */
  async *[Symbol.asyncIterator](): AsyncGenerator<string> {
    while (!this.#disposed) {
      let path: string;
      try {
        path = await this.next();
      } catch (error) {
        if (this.#disposed) return;
        throw error;
      }
      yield path;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.end(new XenstoreClosedError(`the watch on ${this.path} is closed`));
    await this.#unwatch();
  }
}
