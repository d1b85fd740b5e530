import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import {
  givenUpSignal,
  isBounded,
  showProgress,
  whileItProgresses,
} from '../../../src/core/signs-of-life.ts';

const given = (work: () => Promise<unknown>): Promise<unknown> =>
  whileItProgresses(work, 300, () => new Error('given up'));

it('waits for work as long as it shows progress', async () => {
  const work = async (): Promise<string> => {
    for (let n = 0; n < 6; n++) {
      await sleep(100);
      showProgress();
    }
    return 'done';
  };
  expect(await given(work)).toBe('done');
});

it('gives up work that shows none; that work may clean up, or still end well', async () => {
  await expect(given(() => new Promise(() => {}))).rejects.toThrow('given up');
  const tidied: string[] = [];
  const stopped = (outcome: () => unknown) => async (): Promise<unknown> => {
    await new Promise((resolve) => givenUpSignal()?.addEventListener('abort', resolve));
    await sleep(10);
    tidied.push('tidied');
    return outcome();
  };
  const fails = (): never => {
    throw new Error('was stopped');
  };
  await expect(given(stopped(fails))).rejects.toThrow('given up');
  expect(await given(stopped(() => 'late'))).toBe('late');
  expect(tidied).toEqual(['tidied', 'tidied']);
});

it('tells bounded work what bounds it, and other work nothing', async () => {
  expect([isBounded(), givenUpSignal()]).toEqual([false, undefined]);
  showProgress();
  await given(async () => {
    await sleep(1);
    expect(isBounded()).toBe(true);
  });
  await expect(given(() => Promise.reject(new Error('failed')))).rejects.toThrow('failed');
});
