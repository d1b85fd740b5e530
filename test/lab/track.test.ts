/**
 * A tracked guest on real Xen, with its memory files on XFS: each snapshot copies what was written since the one before, has memory and
 * disks of one instant, and can be reverted to; whatever else uses Xen's dirty log is noticed.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { GuestType } from '../../lab/guests.ts';
import { Dom0, XEN } from './host.ts';

/** Copying all memory takes most of the time under emulation, and this test does it five times for each type of guest. */
const SWITCH = process.env['XLSNAP_LAB_TRACK'];
const TYPES: readonly GuestType[] = SWITCH === 'all' ? ['pvh', 'hvm'] : ['pvh'];

/** Half an hour is enough on a quiet machine. */
const TIMEOUT_MS = 3_600_000;

/** Longer than a revert of the snapshot's disks needs beside a guest that writes. */
const TICK_MS = 500;

let dom0: Dom0;
beforeAll(async () => {
  if (SWITCH !== undefined) dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

if (SWITCH === undefined)
  console.log('  skipped: set XLSNAP_LAB_TRACK=1 (PVH) or =all (PVH and HVM) to run it: it takes long');

interface Taken {
  readonly name: string;
  readonly memory: string;
  /** The number that the guest had counted to. */
  readonly instant: number;
}

it.skipIf(SWITCH === undefined).each(TYPES)(
  'a tracked %s guest gets three generations, reverts to each, and notices what breaks the chain',
  async (type) => {
    const name = `e2e-track-${type}`;
    await dom0.steadily(name, async () => {
      await dom0.lab.removeGuest(name);
      // The file system is small.
      await dom0.lab.run('rm -rf /var/lib/xen/snapshots /lab/xfs/*');
      await dom0.lab.startGuest({
        type,
        name,
        memoryMiB: 84,
        tickMs: TICK_MS,
        onReboot: 'restart',
        disks: [
          { vdev: 'xvda', format: 'qcow2', sizeMiB: 16 },
          { vdev: 'xvdb', format: 'raw-xfs', sizeMiB: 16 },
        ],
      });
      await dom0.lab.waitForTicks(name, 20);
      await new Story(name).tell();
    });
    await dom0.lab.removeGuest(name);
  },
  TIMEOUT_MS,
);

class Story {
  readonly #name: string;
  #number = 0;

  constructor(name: string) {
    this.#name = name;
  }

  async tell(): Promise<void> {
    const first = await this.#take({ full: 'NOT_TRACKED' });
    const second = await this.#take({ parent: first.memory });
    const third = await this.#take({ parent: second.memory });

    const byXl = `/lab/xfs/${this.#name}-by-xl.save`;
    await dom0.lab.run(`xl save -c ${this.#name} ${byXl}; rm ${byXl}`, { timeoutMs: 600_000 });
    await this.#goesOn();
    const fourth = await this.#take({ full: 'LOG_BROKEN' });
    const fifth = await this.#take({ parent: fourth.memory });

    // The receiver goes away while the memory is sent, so the domain stays, as after any migration that fails.
    const receiver = '/lab/receiver';
    await dom0.lab.run(`cat >${receiver}; chmod 755 ${receiver}`, {
      input:
        "#!/bin/sh\nprintf 'xl migration receiver ready, send binary domain data.\\n'\nhead -c 4000000 >/dev/null\n",
    });
    const migration = await dom0.lab.run(`xl migrate -s '' ${this.#name} ${receiver} 2>&1`, {
      check: false,
      timeoutMs: 600_000,
    });
    expect(migration.stdout).toMatch(/Saving to migration stream/);
    expect(migration.code).not.toBe(0);
    await this.#goesOn();
    const sixth = await this.#take({ full: 'LOG_BROKEN' });

    // A child without its parent, and a parent without its child.
    await this.#delete(fourth);
    await dom0.result(`verify ${fifth.memory}`);
    for (const taken of [first, third, second]) await this.#revertTo(taken);
    for (const taken of [first, third, fifth, sixth]) await this.#delete(taken);
    await dom0.result(`verify ${second.memory}`);
    await this.#take({ full: 'OTHER_LIFE' });

    await dom0.lab.run(`xl reboot ${this.#name}`, { timeoutMs: 600_000 });
    await dom0.lab.waitForTicks(this.#name, 20);
    await this.#take({ full: 'OTHER_LIFE' });
    expect(await dom0.result(`track off ${this.#name}`)).toMatchObject({ tracked: true });
    expect(await dom0.result(`track off ${this.#name}`)).toMatchObject({ tracked: false });
    await this.#goesOn();
  }

  async #delete({ memory }: Taken): Promise<void> {
    await dom0.result(`snapshot-delete ${this.#name} ${memory}.cfg`);
  }

  /** Takes the next snapshot, and checks that memory and disks are of one instant. */
  async #take(tracked: { readonly parent: string } | { readonly full: string }): Promise<Taken> {
    const name = `s${++this.#number}`;
    const memory = `/lab/xfs/${this.#name}-${name}.save`;
    const cfg = `/lab/xfs/${this.#name}-${name}.in`;
    await dom0.lab.run(`cat >${cfg}`, { input: `name="${name}"\nmemory_path="${memory}"\n` });
    const result = await dom0.result(`snapshot-create ${this.#name} ${cfg} --live --track`);
    expect(result).toMatchObject({ tracked, tracking: true, warnings: [] });
    const { pages = 'all' } = result['tracked'] as { readonly pages?: number };
    console.log(
      `  Xen ${XEN}, ${name}: ${pages} of ${result['pages']} pages copied, stopped for ${Number(result['downtime_seconds']).toFixed(2)} s, ` +
        `${Number(result['total_seconds']).toFixed(1)} s in all`,
    );
    await this.#goesOn();
    await dom0.verifyByXen(memory);
    await dom0.result(`verify ${memory}`);
    const counter = await dom0.memoryCounter(memory);
    const { disks } = result['plan'] as {
      readonly disks: readonly {
        readonly vdev: string;
        readonly image: string;
        readonly snapshot?: string;
      }[];
    };
    expect(disks.map(({ vdev }) => vdev)).toEqual(['xvda', 'xvdb']);
    for (const { vdev, image, snapshot } of disks) {
      const disk =
        snapshot === undefined
          ? await dom0.diskCounter(image, 'qcow2', name)
          : await dom0.diskCounter(snapshot, 'raw');
      expect(disk.problems, vdev).toEqual([]);
      expect(disk.head.number, vdev).toBeGreaterThanOrEqual(counter.done);
      expect(disk.head.number, vdev).toBeLessThanOrEqual(counter.started);
    }
    return { name, memory, instant: counter.done };
  }

  /** Reverts: the guest continues from the snapshot's instant, without a boot. */
  async #revertTo({ memory, instant }: Taken): Promise<void> {
    const before = await dom0.lab.guestReport(this.#name);
    await dom0.result(`snapshot-revert ${this.#name} ${memory}.cfg`);
    await this.#goesOn();
    const after = await dom0.lab.guestReport(this.#name);
    expect(after.up).toHaveLength(before.up.length);
    const rest = after.ticks.slice(before.ticks.length);
    const last = before.ticks.at(-1)?.n ?? 0;
    // Back, or forward to a later snapshot: what follows is not the next number.
    const first = rest.find((tick, at) => tick.n !== (rest[at - 1]?.n ?? last) + 1);
    expect(first?.n).toBeGreaterThanOrEqual(instant);
    expect(first?.n).toBeLessThan(instant + 5);
  }

  async #goesOn(): Promise<void> {
    await dom0.lab.waitForTicks(this.#name, 5);
    expect((await dom0.lab.guestReport(this.#name)).complaints).toEqual([]);
  }
}
