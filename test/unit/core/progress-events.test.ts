import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { observe, type ProgressEvent } from '../../../src/core/progress-events.ts';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { FakeHost } from '../../../src/testing/fake-host.ts';
import { tempDir } from '../../support/temp.ts';

async function all(events: AsyncIterable<ProgressEvent>): Promise<ProgressEvent[]> {
  const seen: ProgressEvent[] = [];
  for await (const event of events) seen.push(event);
  return seen;
}

test('yields the events of a create, in order, and its result', async () => {
  await using directory = await tempDir();
  const host = new FakeHost({ directory: directory.path });
  const work = observe((reporter) =>
    createSnapshot(host, { domain: 'guest1', snapshotDir: directory.path, name: 's' }, { reporter }),
  );
  const events = await all(work);
  const result = await work.result;
  const ended = events.flatMap((event) =>
    event.type === 'phase' && event.event === 'end' ? [event.phase] : [],
  );
  expect(ended).toEqual(result.phases.map(({ name }) => name));
  expect(events.some((event) => event.type === 'progress' && event.phase === 'memory')).toBe(true);
});

test('the work continues while nobody looks; the last progress of a phase is kept', async () => {
  const work = observe(async (reporter) => {
    reporter.phase('memory', 'start');
    for (let done = 1; done <= 1000; done++) reporter.progress({ phase: 'memory', done, unit: 'pages' });
    reporter.progress({ phase: 'disks', done: 1, unit: 'steps' });
    reporter.log('warning', 'w', { a: 1 });
    reporter.phase('memory', 'end', 2);
    return 5;
  });
  expect(await work.result).toBe(5);
  await turn();
  expect(await all(work)).toEqual([
    { type: 'phase', phase: 'memory', event: 'start' },
    { type: 'progress', phase: 'memory', done: 1000, unit: 'pages' },
    { type: 'progress', phase: 'disks', done: 1, unit: 'steps' },
    { type: 'log', level: 'warning', message: 'w', fields: { a: 1 } },
    { type: 'phase', phase: 'memory', event: 'end', seconds: 2 },
  ]);
});

test('events come as they happen', async () => {
  let go = (): void => {};
  const work = observe(async (reporter) => {
    reporter.log('info', 'first');
    await new Promise<void>((resolve) => {
      go = resolve;
    });
    reporter.log('info', 'second');
  });
  const seen: string[] = [];
  for await (const event of work) {
    if (event.type === 'log') seen.push(event.message);
    // It waits for us: the first event arrives before the work is over.
    go();
  }
  expect(seen).toEqual(['first', 'second']);
});

test('an error of the work ends the iteration, and may be ignored', async () => {
  const fail = (): ReturnType<typeof observe<number>> =>
    observe(async (reporter) => {
      reporter.log('info', 'before');
      throw new Error('no');
    });
  fail();
  await turn();
  const work = fail();
  const seen: ProgressEvent[] = [];
  await expect(
    (async () => {
      for await (const event of work) seen.push(event);
    })(),
  ).rejects.toThrow('no');
  expect(seen).toHaveLength(1);
  await expect(work.result).rejects.toThrow('no');
});

test('leaving the loop early still gives the result', async () => {
  const work = observe(async (reporter) => {
    for (let i = 0; i < 3; i++) {
      reporter.log('info', `${i}`);
      await turn();
    }
    return 'done';
  });
  for await (const _ of work) break;
  expect(await work.result).toBe('done');
});
