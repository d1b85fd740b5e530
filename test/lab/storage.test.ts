/** Guests on LVM volumes and raw files, served by blkback: snapshots by their storage, checked by the guest's own counter. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { GuestType } from '../../lab/guests.ts';
import type { LabGuest } from '../../lab/lab.ts';
import { Dom0, PV_LIVE, XEN } from './host.ts';

/**
 * `XLSNAP_LAB_STORAGE=all` also runs it with a PVH guest. blkback and LVM take seconds for each step under emulation.
 */
const TYPES: readonly GuestType[] = process.env['XLSNAP_LAB_STORAGE'] === 'all' ? ['pv', 'pvh'] : ['pv'];

/** Longer than LVM needs beside a guest that writes. */
const TICK_MS = 500;

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

interface Planned {
  readonly memory_path: string;
  readonly disks: readonly { readonly vdev: string; readonly storage: string; readonly snapshot: string }[];
}

interface Phase {
  readonly name: string;
  readonly seconds: number;
}

it.each(TYPES)(
  'a %s guest on a thin volume, a raw file on XFS and a thick volume, all by blkback, is snapshotted at one instant and reverted twice',
  async (type) => {
    const name = `e2e-storage-${type}`;
    await dom0.steadily(name, async () => {
      await dom0.lab.removeGuest(name);
      await dom0.lab.run('rm -rf /var/lib/xen/snapshots');
      const guest = await dom0.lab.startGuest({
        type,
        name,
        memoryMiB: 84,
        tickMs: TICK_MS,
        disks: [
          { vdev: 'xvda', format: 'thin', sizeMiB: 32 },
          { vdev: 'xvdb', format: 'raw-xfs', sizeMiB: 32 },
          { vdev: 'xvdc', format: 'lvm', sizeMiB: 32 },
        ],
      });
      await dom0.lab.waitForTicks(name, 70);
      for (const live of type === 'pv' && !PV_LIVE ? [false] : [false, true]) {
        await lifeOf(guest, name, live);
      }
    });
    await dom0.lab.removeGuest(name);
  },
);

/** Takes a snapshot, reverts to it twice, and deletes it. */
async function lifeOf(guest: LabGuest, name: string, live: boolean): Promise<void> {
  const instant = await create(guest, name, live);
  for (const time of ['first', 'second']) {
    await dom0.lab.waitForTicks(name, 4);
    await revert(name, instant, time);
  }
  expect(await dom0.result(`snapshot-list ${name}`)).toMatchObject({
    snapshots: [{ name: 's1', revert: 'possible', problems: [], risks: [] }],
  });
  await dom0.result(`snapshot-delete ${name} s1`);
  await goOn(name);
  expect(await left(name)).toEqual([`${name}-xvda`, `${name}-xvdb.raw`, `${name}-xvdc`]);
}

/** @returns the number at the snapshot's instant */
async function create(guest: LabGuest, name: string, live: boolean): Promise<number> {
  const result = await dom0.result(`snapshot-create ${name} --name s1 ${live ? '--live' : ''}`);
  const { memory_path: memoryPath, disks } = result['plan'] as Planned;
  expect(disks).toMatchObject([
    { vdev: 'xvda', storage: 'lvm-thin' },
    { vdev: 'xvdb', storage: 'reflink', snapshot: `${guest.disks[1]?.path}.s1` },
    { vdev: 'xvdc', storage: 'lvm-thick' },
  ]);
  const seconds = (result['phases'] as readonly Phase[])
    .filter((phase) => ['prepare', 'memory', 'disks', 'finish'].includes(phase.name))
    .map((phase) => `${phase.name} ${phase.seconds.toFixed(1)} s`);
  const stopped = Number(result['downtime_seconds']).toFixed(1);
  console.log(`  Xen ${XEN}, ${live ? 'live' : 'stopped'}: stopped for ${stopped} s; ${seconds.join(', ')}`);
  await goOn(name);
  const counter = await dom0.memoryCounter(memoryPath);
  for (const { vdev, storage, snapshot } of disks) {
    const disk =
      storage === 'lvm-thin' ? await volumeCounter(snapshot) : await dom0.diskCounter(snapshot, 'raw');
    expect(disk.problems, vdev).toEqual([]);
    expect(disk.head.number, vdev).toBeGreaterThanOrEqual(counter.done);
    expect(disk.head.number, vdev).toBeLessThanOrEqual(counter.started);
  }
  return counter.done;
}

/** The counter's part of a snapshot that is not active. */
async function volumeCounter(path: string) {
  await dom0.lab.run(`lvchange -qq -ay -K ${path}`, { timeoutMs: 120_000 });
  try {
    return await dom0.diskCounter(path, 'raw');
  } finally {
    await dom0.lab.run(`lvchange -qq -an ${path}`, { timeoutMs: 120_000 });
  }
}

async function revert(name: string, instant: number, time: string): Promise<void> {
  const before = await dom0.lab.guestReport(name);
  const numbers = before.ticks.map((tick) => tick.n);
  const result = await dom0.result(`snapshot-revert ${name} s1`);
  console.log(`  the ${time} revert took ${Number(result['total_seconds']).toFixed(1)} s`);
  await goOn(name);
  const after = await dom0.lab.guestReport(name);
  expect(after.up).toHaveLength(before.up.length);
  // Ticks printed between the report and the destroy come first; they are higher than those before them.
  const rest = after.ticks.slice(numbers.length);
  const first = rest.find((tick, at) => tick.n < (rest[at - 1]?.n ?? numbers.at(-1) ?? 0));
  expect(first?.n).toBeGreaterThanOrEqual(instant);
  expect(first?.n).toBeLessThan(instant + 5);
  expect((await left(name)).filter((one) => /before-|fresh-|safety-/.test(one))).toEqual([]);
}

async function goOn(name: string): Promise<void> {
  await dom0.lab.waitForTicks(name, 5);
  expect((await dom0.lab.guestReport(name)).complaints).toEqual([]);
}

/** The volumes and files of a guest and its snapshots. */
async function left(name: string): Promise<readonly string[]> {
  const { stdout } = await dom0.lab.run(
    `lvs --noheadings -o lv_name lab; ls /lab/xfs; find /var/lib/xen/snapshots -name '*.journal'`,
    { timeoutMs: 120_000 },
  );
  return stdout
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith(name) || line.endsWith('.journal'))
    .sort();
}
