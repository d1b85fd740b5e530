/** Progress as an async iterable, instead of a `Reporter`. */

import { EventQueue } from './event-queue.ts';
import { omitUndefined } from './omit-undefined.ts';
import type { LogLevel, Progress, Reporter } from './reporter.ts';

/** A call of a `Reporter`, as an object. */
export type ProgressEvent =
  | {
      readonly type: 'phase';
      readonly phase: string;
      readonly event: 'start' | 'end' | 'failed';
      /** Not at the start. */
      readonly seconds?: number;
    }
  | ({ readonly type: 'progress' } & Progress)
  | {
      readonly type: 'log';
      readonly level: LogLevel;
      readonly message: string;
      readonly fields?: Readonly<Record<string, unknown>>;
    };

/** Work under way. */
export interface ObservedWork<T> extends AsyncIterable<ProgressEvent> {
  /** What the work came to; may be left alone, also when it rejects. */
  readonly result: Promise<T>;
}

/** Ends the queue of work that has been done. */
class WorkDone extends Error {}

/**
 * Runs a call and returns its events as an async iterable, as an alternative to a `Reporter`. The work starts at once, and continues
 * whether or not the events are taken; of those not yet taken, only the last progress of a phase is kept.
 * They can be iterated once. The iteration ends with the work, and throws what that throws.
 *
 * @example
 * ```ts
 * import { createSnapshot, observe } from 'xlsnap';
 *
 * const work = observe((reporter) => createSnapshot(host, { domain: 'guest1' }, { reporter, signal }));
 * for await (const event of work) if (event.type === 'progress') console.log(event.phase, event.done);
 * const result = await work.result;
 * ```
 */
export function observe<T>(work: (reporter: Reporter) => Promise<T>): ObservedWork<T> {
  const queue = new EventQueue<ProgressEvent>();
  const result = work({
    phase: (phase, event, seconds) =>
      queue.push(omitUndefined({ type: 'phase' as const, phase, event, seconds })),
    progress: (progress) =>
      queue.push(
        { type: 'progress', ...progress },
        (last) => last.type === 'progress' && last.phase === progress.phase,
      ),
    log: (level, message, fields) =>
      queue.push(omitUndefined({ type: 'log' as const, level, message, fields })),
  });
  const over = (): void => queue.end(new WorkDone());
  result.then(over, over);
  return {
    result,
    async *[Symbol.asyncIterator](): AsyncGenerator<ProgressEvent, void, undefined> {
      try {
        for (;;) yield await queue.next({}, () => new WorkDone());
      } catch (error) {
        if (!(error instanceof WorkDone)) throw error;
      } finally {
        // A loop that is left early needs no more events.
        over();
      }
      await result;
    },
  };
}
