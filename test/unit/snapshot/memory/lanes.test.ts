import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Lanes } from '../../../../src/snapshot/memory/lanes.ts';

test('a bounded number of jobs runs at once, and all are waited for', async () => {
  const lanes = new Lanes(3);
  let running = 0;
  let most = 0;
  let done = 0;
  for (let i = 0; i < 10; i++) {
    await lanes.start(async () => {
      most = Math.max(most, ++running);
      await sleep(2);
      running--;
      done++;
    });
  }
  await lanes.end();
  expect([most, done]).toEqual([3, 10]);
});

test('nothing starts after a failure, and the first one is thrown when all have ended', async () => {
  const lanes = new Lanes(2);
  let ended = false;
  await lanes.start(async () => {
    await sleep(20);
    ended = true;
    throw new Error('second');
  });
  await lanes.start(() => Promise.reject(new Error('first')));
  await expect(lanes.start(() => Promise.resolve())).rejects.toThrow('first');
  await expect(lanes.end()).rejects.toThrow('first');
  expect(ended).toBe(true);
});
