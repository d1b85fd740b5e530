/** create and revert of real guests on real Xen: the guest's own counter is the judge. */
import { afterAll, beforeAll, describe, expect, it, onTestFailed } from 'vitest';
import type { LabGuest } from '../../lab/lab.ts';
import { Dom0 } from './host.ts';

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

/** No complaint of the guest: its disks always held what its memory expected. */
async function expectSound(name: string): Promise<void> {
  expect((await dom0.lab.guestReport(name)).complaints).toEqual([]);
}

function keepEvidence(name: string): void {
  onTestFailed(async () => {
    console.error(`evidence: ${await dom0.lab.keepEvidence(name)}`);
  });
}

describe.each(['pvh', 'hvm'] as const)('a %s guest with an internal and an external snapshot', (type) => {
  const name = `e2e-${type}`;
  const folder = `/lab/snap-${type}`;
  const memory = `${folder}/s1.save`;
  const overlay = `${folder}/xvdb-s1.qcow2`;
  let guest: LabGuest;
  let instant: number;

  const diskPath = (vdev: string): string => guest.disks.find((disk) => disk.vdev === vdev)?.path ?? '';

  beforeAll(async () => {
    await dom0.lab.removeGuest(name);
    guest = await dom0.lab.startGuest({
      type,
      name,
      memoryMiB: 96,
      onReboot: 'restart',
      disks: [
        { vdev: 'xvda', format: 'qcow2', sizeMiB: 32 },
        { vdev: 'xvdb', format: 'qcow2', sizeMiB: 32 },
      ],
    });
    await dom0.lab.waitForTicks(name, 10);
  });
  afterAll(() => dom0.lab.removeGuest(name));

  it('is snapshotted at one instant and goes on', async () => {
    keepEvidence(name);
    await dom0.lab.run(`mkdir -p ${folder}; cat >${folder}/snap.cfg`, {
      input: `name="s1"\nmemory_path="${memory}"\ndisks=[',,xvda', '${overlay},qcow2,xvdb']\n`,
    });
    const result = await dom0.result(`snapshot-create ${name} ${folder}/snap.cfg`);
    expect(result).toMatchObject({ plan: { state: 'running', uncovered: [] } });
    await dom0.lab.waitForTicks(name, 20);
    await expectSound(name);
    expect((await dom0.lab.domains()).get(name)?.domid).toBe(guest.domid);

    const counter = await dom0.memoryCounter(memory);
    const internal = await dom0.diskCounter(diskPath('xvda'), 'qcow2', 's1');
    const base = await dom0.diskCounter(diskPath('xvdb'), 'qcow2');
    for (const disk of [internal, base]) {
      expect(disk.problems).toEqual([]);
      expect(disk.head.boot).toBe(counter.boot);
      expect(disk.head.number).toBeGreaterThanOrEqual(counter.done);
      expect(disk.head.number).toBeLessThanOrEqual(counter.started);
    }
    instant = counter.done;
  });

  it("leaves a file that Xen's own verifier accepts", async () => {
    await dom0.lab.run(`verify-stream-v2 -f xl -i ${memory}`, { timeoutMs: 120_000 });
  });

  it('has a configuration that names the overlay', async () => {
    const { stdout } = await dom0.lab.run(`xl list -l ${name}`);
    expect(stdout).toContain(`"pdev_path": "${overlay}"`);
    expect(stdout).not.toContain(`"pdev_path": "${diskPath('xvdb')}"`);
  });

  it.each(['first', 'second'])('is reverted, for the %s time', async () => {
    keepEvidence(name);
    const before = await dom0.lab.waitForTicks(name, 10);
    expect(before.n).toBeGreaterThan(instant + 10);
    const ticksBefore = (await dom0.lab.guestReport(name)).ticks.length;
    await dom0.bringBack(name, async () => {
      const { domid } = await dom0.result(`snapshot-revert ${name} ${memory}.cfg`);
      return Number(domid);
    });
    await expectSound(name);
    const { ticks, up } = await dom0.lab.guestReport(name);
    // It went on from the snapshot's instant, and did not boot.
    expect(up).toHaveLength(1);
    const restored = ticks.slice(ticksBefore).find((tick) => tick.n < before.n);
    expect(restored?.n).toBeGreaterThan(instant - 1);
    expect(restored?.n).toBeLessThan(instant + 5);
    const { stdout } = await dom0.lab.run(`ls ${folder}; qemu-img snapshot -l ${diskPath('xvda')} -U`);
    expect(stdout).not.toMatch(/before-|fresh-|partial/);
  });

  it('goes on with the overlay after a reboot of the guest', async () => {
    keepEvidence(name);
    const before = await dom0.lab.counter(name);
    await dom0.lab.run(`xl reboot ${name}`);
    await expect
      .poll(async () => (await dom0.lab.guestReport(name)).up.length, { timeout: 300_000, interval: 2000 })
      .toBeGreaterThan(1);
    await dom0.lab.waitForTicks(name, 5);
    await expectSound(name);
    // The number of the overlay was taken over; the base still has that of the snapshot's instant.
    const second = (await dom0.lab.guestReport(name)).up.at(-1);
    expect(second?.disks.get('xvdb')).toBeGreaterThanOrEqual(before?.n ?? Number.POSITIVE_INFINITY);
    const base = await dom0.diskCounter(diskPath('xvdb'), 'qcow2');
    expect(base.head.number).toBeLessThanOrEqual(instant + 1);
  });

  it('is restored by plain xl restore', async () => {
    keepEvidence(name);
    // The user's part: the disks as they were. The file names the base, which nobody has written to since.
    await dom0.lab.run(`xl destroy ${name}; qemu-img snapshot -a s1 ${diskPath('xvda')}`, {
      timeoutMs: 60_000,
    });
    let ticksBefore = 0;
    await dom0.bringBack(name, async () => {
      await dom0.lab.run(`xl destroy ${name}; qemu-img snapshot -a s1 ${diskPath('xvda')}`, {
        timeoutMs: 60_000,
      });
      ticksBefore = (await dom0.lab.guestReport(name)).ticks.length;
      await dom0.lab.run(`xl restore ${memory}`, { timeoutMs: 180_000 });
      return await dom0.domid(name);
    });
    await expectSound(name);
    const first = (await dom0.lab.guestReport(name)).ticks.slice(ticksBefore)[0];
    expect(first?.n).toBeLessThan(instant + 5);
  });
});
