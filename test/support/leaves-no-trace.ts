/** Unit tests share processes: a file of them must leave its process as it was. */
import { afterAll, beforeAll, expect, vi } from 'vitest';

const state = (): unknown => ({
  directory: process.cwd(),
  environment: { ...process.env },
  exitCode: process.exitCode,
  listeners: Object.fromEntries(process.eventNames().map((name) => [name, process.listenerCount(name)])),
  fakeTimers: vi.isFakeTimers(),
});

let before: unknown;
beforeAll(() => {
  before = state();
});
afterAll(() => {
  expect(state()).toEqual(before);
});
