/** A queue of events that can be waited for. */
import { type Limits, within } from './deadline.ts';

/** Queues what arrives until a caller asks for it, in order. */
export class EventQueue<T> {
  #items: T[] = [];
  #waiting: PromiseWithResolver<T>[] = [];
  #end: Error | undefined;

  /** The items not yet taken. */
  get pending(): readonly T[] {
    return this.#items;
  }

  /**
   * Adds an item; after the end it is dropped.
   * @param replaces whether it makes the last one superfluous, if nobody has taken that yet
   */
  push(item: T, replaces?: (last: T) => boolean): void {
    if (this.#end !== undefined) return;
    const first = this.#waiting.shift();
    if (first !== undefined) {
      first.resolve(item);
      return;
    }
    const last = this.#items.at(-1);
    if (last !== undefined && replaces?.(last) === true) this.#items.pop();
    this.#items.push(item);
  }

  /** Ends the queue: remaining items can be taken, then `next` throws `error`. */
  end(error: Error): void {
    if (this.#end !== undefined) return;
    this.#end = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  /**
   * Waits for the next item. One that arrives after a limit was reached stays for the next call.
   * @throws {InterruptedError} If the signal is aborted; also the error given to `end`, and that of `onTimeout`
   */
  async next(limits: Limits, onTimeout: () => Error): Promise<T> {
    if (limits.signal?.aborted !== true) {
      const item = this.#items.shift();
      if (item !== undefined) return item;
      if (this.#end !== undefined) throw this.#end;
    }
    let entry: PromiseWithResolver<T> | undefined;
    const arrival = new Promise<T>((resolve, reject) => {
      entry = { resolve, reject };
      this.#waiting.push(entry);
    });
    try {
      return await within(arrival, limits, onTimeout);
    } finally {
      this.#waiting = this.#waiting.filter((other) => other !== entry);
    }
  }
}

interface PromiseWithResolver<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}
