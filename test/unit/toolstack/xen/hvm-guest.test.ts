import { expect, it } from 'vitest';
import { toDomid } from '../../../../src/core/brand.ts';
import { PAGE_TYPE } from '../../../../src/savefmt/index.ts';
import type { Xen } from '../../../../src/toolstack/xen/guest-records.ts';
import { HvmGuest } from '../../../../src/toolstack/xen/hvm-guest.ts';

/** A Xen that only knows the size of the guest's memory map, and what is above its first 1000 pages. */
function xenWith(sizes: number[], above: number = PAGE_TYPE.notab): Xen {
  const xen: Partial<Xen> = {
    nrGpfns: () => Promise.resolve(sizes.shift() ?? 0),
    pageTypesFrom: (_, first, count) => {
      expect([first, count]).toEqual([1000, 1000]);
      return Promise.resolve(new Uint8Array(count).fill(PAGE_TYPE.xtab).fill(above, -1));
    },
  };
  return xen as Xen;
}

it('a memory map that has grown since the snapshot began is refused', async () => {
  await using guest = await HvmGuest.open(xenWith([1000, 2000]), toDomid(7));
  await expect(guest.settle({ mayGrow: false })).rejects.toMatchObject({ code: 'P2M_RESIZED', exitCode: 4 });
});

it('a memory map that has grown by more than can be examined is refused', async () => {
  await using guest = await HvmGuest.open(xenWith([1000, 2 ** 32]), toDomid(7));
  await expect(guest.settle({ mayGrow: false })).rejects.toMatchObject({ code: 'P2M_RESIZED' });
});

it('a memory map that has grown by frames without memory of the guest is accepted', async () => {
  await using guest = await HvmGuest.open(xenWith([1000, 2000], PAGE_TYPE.xtab), toDomid(7));
  await expect(guest.settle({ mayGrow: false })).resolves.toBeUndefined();
});

it.each([1000, 900])('a memory map of 1000 pages that has %i later is accepted', async (size) => {
  await using guest = await HvmGuest.open(xenWith([1000, size]), toDomid(7));
  await expect(guest.settle({ mayGrow: false })).resolves.toBeUndefined();
});

it('a memory map that has grown is used if no page has been read yet', async () => {
  await using guest = await HvmGuest.open(xenWith([1000, 2000]), toDomid(7));
  await guest.settle({ mayGrow: true });
  expect(guest.p2mSize).toBe(2000);
});

it('a memory map that has grown to an absurd size is not examined', async () => {
  await using guest = await HvmGuest.open(xenWith([1000, 2 ** 32]), toDomid(7));
  await expect(guest.settle({ mayGrow: true })).rejects.toMatchObject({ code: 'P2M_RESIZED' });
});

it('a memory map larger than that of any real guest is refused at once', async () => {
  await expect(HvmGuest.open(xenWith([2 ** 30 + 1]), toDomid(7))).rejects.toMatchObject({
    code: 'P2M_SIZE',
    exitCode: 4,
  });
  await using guest = await HvmGuest.open(xenWith([2 ** 30]), toDomid(7));
  expect(guest.p2mSize).toBe(2 ** 30);
});

it('counts the pages that Xen says the guest has', async () => {
  const info = { memoryBytes: 4096 * 7 };
  const xen = { ...xenWith([1000]), domainInfo: () => Promise.resolve(info) } as unknown as Xen;
  await using guest = await HvmGuest.open(xen, toDomid(7));
  expect(await guest.pageCount()).toBe(7);
});

it('cannot count those of a domain that is gone', async () => {
  const xen = { ...xenWith([1000]), domainInfo: () => Promise.resolve(undefined) } as unknown as Xen;
  await using guest = await HvmGuest.open(xen, toDomid(7));
  await expect(guest.pageCount()).rejects.toMatchObject({ code: 'DOMAIN_GONE' });
});
