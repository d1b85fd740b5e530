import { expect, test } from 'vitest';
import { InterruptedError } from '../../../../src/core/errors.ts';
import { rehearse } from '../../../../src/snapshot/memory/rehearsal.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';

const XTAB = 15;

test('copies the first pages of a guest, and no others', async () => {
  const guest = new FakeGuest(new Uint8Array(100_000).fill(XTAB, 50, 60));
  await rehearse(guest, {});
  const pfns = guest.calls.packed.flatMap((batch) => [...batch]);
  const all = Array.from({ length: 8192 }, (_, pfn) => pfn).filter((pfn) => pfn < 50 || pfn >= 60);
  // A busy machine stops earlier.
  expect(pfns).toEqual(all.slice(0, pfns.length));
  expect(pfns.length).toBeGreaterThanOrEqual(1022);
  expect(guest.calls).toMatchObject({ running: 0, writing: 0 });
});

test('waits for what it writes when copying fails', async () => {
  const guest = new FakeGuest(new Uint8Array(5000));
  guest.beforeCopy = async (pfns) => {
    if (pfns[0] !== 0) throw new Error('no more');
  };
  await expect(rehearse(guest, {})).rejects.toThrow('no more');
  expect(guest.calls).toMatchObject({ running: 0, writing: 0 });
});

test('ends when it is interrupted', async () => {
  await expect(rehearse(new FakeGuest(), { signal: AbortSignal.abort() })).rejects.toThrow(InterruptedError);
});
