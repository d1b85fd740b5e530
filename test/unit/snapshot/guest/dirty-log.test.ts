/** Tests what shows that nobody else has touched the dirty log. */
import { describe, expect, it } from 'vitest';
import { Bitmap } from '../../../../src/core/bitmap.ts';
import { DirtyLog } from '../../../../src/snapshot/guest/dirty-log.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';

async function started(): Promise<{ guest: FakeGuest; log: DirtyLog; taken: Bitmap }> {
  const guest = new FakeGuest();
  const log = new DirtyLog(guest, undefined);
  await log.start();
  return { guest, log, taken: new Bitmap(guest.p2mSize) };
}

describe('a dirty log', () => {
  it('is whole as long as nobody else takes from it', async () => {
    const { guest, log, taken } = await started();
    guest.write(3, 1);
    expect(await log.take(taken, { final: false })).toBe(true);
    guest.write(4, 1);
    expect(await log.take(taken, { final: true })).toBe(true);
    expect([3, 4, 5].map((pfn) => taken.has(pfn))).toEqual([true, true, false]);
  });

  it('is known to be lost if a program has restarted it, taken from it, and died', async () => {
    const { guest, log, taken } = await started();
    guest.write(3, 1);
    guest.foreignSave({ killed: true });
    guest.write(4, 1);
    expect(await log.take(taken, { final: false })).toBe(false);
    expect(taken.count()).toBe(guest.p2mSize);
  });

  it('ends the create if that happens before the last pages are copied', async () => {
    const { guest, log, taken } = await started();
    expect(await log.take(taken, { final: false })).toBe(true);
    guest.foreignSave({ killed: true });
    await expect(log.take(taken, { final: true })).rejects.toMatchObject({ code: 'DIRTY_LOG_LOST' });
  });

  it('can be continued by another process that knows its marks, unless another program touched it', async () => {
    const { guest, log, taken } = await started();
    await log.take(taken, { final: true, keep: true });
    expect(log.marks).not.toEqual([]);
    const resume = async (): Promise<boolean> => {
      const next = new DirtyLog(guest, undefined);
      await next.resume(log.marks);
      return await next.take(taken, { final: false });
    };
    guest.write(7, 1);
    taken.clearAll();
    expect(await resume()).toBe(true);
    expect(taken.has(7)).toBe(true);
    guest.foreignSave();
    expect(await resume()).toBe(false);
  });
});
