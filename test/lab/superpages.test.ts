/** Superpages survive a revert, counted in the tables by which Xen maps the guest's memory. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Dom0, XEN } from './host.ts';
import { SharedGuest, smallGuest } from './shared-guest.ts';

const NAME = 'e2e-superpages';
const [, minor = 0] = XEN.split(/[.-]/).map(Number);
const restores = minor >= 21;

let dom0: Dom0;
beforeAll(async () => {
  if (restores) dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

const guest = new SharedGuest(
  smallGuest(NAME, { memoryMiB: 256, disks: [{ vdev: 'xvda', format: 'qcow2', sizeMiB: 16 }] }),
  () => dom0,
);

it.runIf(restores)(
  `a revert gives a PVH guest its superpages back (needs Xen 4.21 or later; this is ${XEN})`,
  async () => {
    await guest.steadily(async () => {
      const booted = await dom0.lab.mappings(guest.domid);
      expect(booted.superpages).toBeGreaterThan(100);
      await dom0.result(`snapshot-create ${NAME} --name stopped`);
      await dom0.result(`snapshot-create ${NAME} --name live --live`);
      for (const name of ['stopped', 'live']) {
        const before = await dom0.lab.mappings(guest.domid);
        const result = await dom0.result(`snapshot-revert ${NAME} ${name}`);
        guest.domid = Number(result['domid']);
        await dom0.lab.waitForTicks(NAME, 3);
        const after = await dom0.lab.mappings(guest.domid);
        console.log(`  Xen ${XEN}, ${name}:`, JSON.stringify({ booted, before, after }));
        expect(after.superpages).toBeGreaterThanOrEqual(booted.superpages);
        expect((await dom0.lab.guestReport(NAME)).complaints).toEqual([]);
      }
    });
  },
);
