import { describe, expect, it, vi } from 'vitest';
import { within } from '../../../src/core/deadline.ts';
import { InterruptedError } from '../../../src/core/errors.ts';
import { EventQueue } from '../../../src/core/event-queue.ts';

const late = (): Error => new Error('late');
const never = new Promise<never>(() => {});

describe('within', () => {
  it('returns the outcome of the work', async () => {
    await expect(within(Promise.resolve(7), { timeoutMs: 1000 }, late)).resolves.toBe(7);
    await expect(within(Promise.reject(new Error('own')), {}, late)).rejects.toThrow('own');
  });

  it('leaves no timer and no listener behind', async () => {
    vi.useFakeTimers();
    try {
      const { signal } = new AbortController();
      const removed = vi.spyOn(signal, 'removeEventListener');
      await within(Promise.resolve(7), { timeoutMs: 1000, signal }, late);
      expect(vi.getTimerCount()).toBe(0);
      expect(removed).toHaveBeenCalledTimes(1);
    } finally {
      vi.useRealTimers();
    }
  });

  it("throws the caller's error when the time is over", async () => {
    await expect(within(never, { timeoutMs: 5 }, late)).rejects.toThrow('late');
  });

  it('throws InterruptedError with the reason when aborted, before or during', async () => {
    const reason = new Error('enough');
    await expect(within(never, { signal: AbortSignal.abort(reason) }, late)).rejects.toMatchObject({
      code: 'INTERRUPTED',
      cause: reason,
    });
    const controller = new AbortController();
    const waiting = within(never, { signal: controller.signal }, late);
    controller.abort();
    await expect(waiting).rejects.toBeInstanceOf(InterruptedError);
  });

  it('ignores a failure that comes too late', async () => {
    const { promise, reject } = settler<number>();
    await expect(within(promise, { timeoutMs: 5 }, late)).rejects.toThrow('late');
    reject(new Error('nobody listens'));
    // An unhandled rejection would fail the run.
    await new Promise((resolve) => setTimeout(resolve, 5));
  });
});

describe('EventQueue', () => {
  it('keeps the order, and items that nobody waited for', async () => {
    const queue = new EventQueue<number>();
    queue.push(1);
    queue.push(2);
    expect(await queue.next({}, late)).toBe(1);
    expect(queue.pending).toEqual([2]);
    expect(await queue.next({}, late)).toBe(2);
    const third = queue.next({}, late);
    queue.push(3);
    expect(await third).toBe(3);
  });

  it('does not lose an item to a wait that was given up', async () => {
    const queue = new EventQueue<string>();
    await expect(queue.next({ timeoutMs: 5 }, late)).rejects.toThrow('late');
    queue.push('kept');
    await expect(queue.next({ signal: AbortSignal.abort() }, late)).rejects.toBeInstanceOf(InterruptedError);
    expect(await queue.next({}, late)).toBe('kept');
  });

  it('yields what it has, then its end, to every reader', async () => {
    const queue = new EventQueue<string>();
    const first = queue.next({}, late);
    const second = queue.next({}, late);
    queue.push('one');
    queue.end(new Error('over'));
    queue.end(new Error('over again'));
    queue.push('dropped');
    expect(await first).toBe('one');
    await expect(second).rejects.toThrow('over');
    await expect(queue.next({}, late)).rejects.toThrow(/^over$/);
  });
});

function settler<T>(): { promise: Promise<T>; reject: (error: Error) => void } {
  let reject = (_: Error): void => {};
  const promise = new Promise<T>((_, no) => {
    reject = no;
  });
  return { promise, reject };
}
