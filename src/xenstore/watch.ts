/** A watch on a xenstore path, as a queue of events. */
import type { Limits } from '../core/deadline.ts';
import { EventQueue } from '../core/event-queue.ts';
import type { WatchTarget } from './connection.ts';
import { XenstoreClosedError, XenstoreTimeoutError } from './errors.ts';

/**
 * Reports when something changes at or below a path. Created by `XenstoreClient.watch`. The first event comes
 * at once, for the path itself. An event means that something may have changed, not what it is now: read it.
 * Equal events that are waiting to be taken are merged.
 */
export class XenstoreWatch implements WatchTarget, AsyncIterable<string>, AsyncDisposable {
  /** The path that is watched. */
  readonly path: string;
  readonly #queue = new EventQueue<string>();
  readonly #unwatch: () => Promise<void>;
  #disposed = false;

  constructor(path: string, unwatch: () => Promise<void>) {
    this.path = path;
    this.#unwatch = unwatch;
  }

  /** Adds an event. Called by the connection. */
  event(path: string): void {
    if (!this.#queue.pending.includes(path)) this.#queue.push(path);
  }

  /** Ends the watch. Called by the connection. */
  end(error: Error): void {
    this.#queue.end(error);
  }

  /**
   * Waits for a change, and returns its path.
   * @throws {XenstoreTimeoutError} If nothing changes within `timeoutMs`. Default: no limit.
   * @throws {XenstoreClosedError} If the connection ends.
   * @throws {InterruptedError} If the signal aborted.
   */
  next(limits: Limits = {}): Promise<string> {
    return this.#queue.next(
      limits,
      () => new XenstoreTimeoutError(`nothing changed at ${this.path} within ${limits.timeoutMs} ms`),
    );
  }

  /** Yields the path of each change. Ends when the watch is disposed of; throws when the connection ends. */
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
