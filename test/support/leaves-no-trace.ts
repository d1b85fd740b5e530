/** Checks of every unit test: it harms no guest or image of a fake host, and leaves the process as it was. */
import { afterAll, afterEach, beforeAll, expect, vi } from 'vitest';
import { FakeHost } from '../../src/testing/fake-host.ts';

const state = (): unknown => ({
  directory: process.cwd(),
  environment: { ...process.env },
  exitCode: process.exitCode,
  listeners: Object.fromEntries(process.eventNames().map((name) => [name, process.listenerCount(name)])),
  fakeTimers: vi.isFakeTimers(),
});

let before: unknown;
const harmed = new Set<FakeHost>();
beforeAll(() => {
  before = state();
  FakeHost.onHarm = (host) => harmed.add(host);
});
afterEach(() => {
  const harm = [...harmed].flatMap((host) => host.harm);
  harmed.clear();
  expect(harm).toEqual([]);
});
afterAll(() => {
  expect(state()).toEqual(before);
});
