import { expect, it } from 'vitest';
import { toDomid } from '../../../src/core/brand.ts';
import { XenGuest } from '../../../src/toolstack/guest.ts';
import type { Xen } from '../../../src/toolstack/guest-records.ts';

/** A Xen that only knows how large the guest's memory map is. */
function xenWith(sizes: number[]): Xen {
  const xen: Partial<Xen> = { nrGpfns: () => Promise.resolve(sizes.shift() ?? 0) };
  return xen as Xen;
}

it('refuses a memory map that has grown since the snapshot began', async () => {
  await using guest = await XenGuest.open(xenWith([1000, 2000]), toDomid(7));
  await expect(guest.settle()).rejects.toMatchObject({ code: 'P2M_RESIZED', exitCode: 4 });
});

it.each([1000, 900])('accepts a memory map of 1000 pages that has %i later', async (size) => {
  await using guest = await XenGuest.open(xenWith([1000, size]), toDomid(7));
  await expect(guest.settle()).resolves.toBeUndefined();
});
