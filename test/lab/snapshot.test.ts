/** create and revert of real guests on real Xen, checked by the guest's own counter. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GuestUp } from '../../lab/counter.ts';
import type { GuestType } from '../../lab/guests.ts';
import type { LabGuest } from '../../lab/lab.ts';
import { Dom0, PV_LIVE, TYPES } from './host.ts';

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

/** A snapshot of a guest: one disk internal, the other external. */
interface Taken {
  readonly memory: string;
  readonly overlay: string;
  /** The image below the overlay. */
  readonly base: string;
  /** The number at the snapshot's instant. */
  readonly instant: number;
  /** The longest time between two ticks, by the guest's own clock, during the snapshot. */
  readonly downtimeMs: number;
}

/** A guest that dirties its memory and writes to its disks, and the steps that it goes through. */
class Scenario {
  readonly name: string;
  readonly folder: string;
  readonly #type: GuestType;
  #guest: LabGuest | undefined;
  #taken: Taken | undefined;

  constructor(type: GuestType) {
    this.#type = type;
    this.name = `e2e-${type}`;
    this.folder = `/lab/snap-${this.name}`;
  }

  async start(): Promise<void> {
    await dom0.lab.removeGuest(this.name);
    await dom0.lab.run(`rm -rf ${this.folder}; mkdir -p ${this.folder}`);
    this.#taken = undefined;
    this.#guest = await dom0.lab.startGuest({
      type: this.#type,
      name: this.name,
      memoryMiB: this.#type === 'hvm' ? 84 : 96,
      vcpus: this.#type === 'pv' ? 2 : 1,
      onReboot: 'restart',
      dirty: { mib: 8, rate: 200 },
      disks: [
        { vdev: 'xvda', format: 'qcow2', sizeMiB: 32 },
        { vdev: 'xvdb', format: 'qcow2', sizeMiB: 32 },
      ],
    });
  }

  /** Snapshots it; memory and both disks must be of one instant, and it continues. */
  async create(name: string, live = false): Promise<void> {
    const memory = this.#memory(name);
    const overlay = `${this.folder}/xvdb-${name}.qcow2`;
    const base = this.#taken?.overlay ?? this.#image('xvdb');
    await dom0.lab.run(`cat >${this.folder}/snap.cfg`, {
      input: `name="${name}"\nmemory_path="${memory}"\ndisks=[',,xvda', '${overlay},qcow2,xvdb']\n`,
    });
    await dom0.lab.waitForTicks(this.name, 5);
    const { domid } = await this.#domain();
    const told = (await dom0.lab.guestReport(this.name)).ticks.length;
    const args = `${this.name} ${this.folder}/snap.cfg ${live ? '--live' : ''}`;
    const result = await dom0.result(`snapshot-create ${args}`);
    expect(result).toMatchObject({ plan: { state: 'running', uncovered: [], live } });
    await this.goOn();
    const ticks = (await dom0.lab.guestReport(this.name)).ticks.slice(told);
    const downtimeMs = Math.max(...ticks.map((tick) => tick.gapRealMs));
    expect((await this.#domain()).domid).toBe(domid);

    const counter = await dom0.memoryCounter(memory);
    for (const disk of [
      await dom0.diskCounter(this.#image('xvda'), 'qcow2', name),
      await dom0.diskCounter(base, 'qcow2'),
    ]) {
      expect(disk.problems).toEqual([]);
      expect(disk.head.boot).toBe(counter.boot);
      expect(disk.head.number).toBeGreaterThanOrEqual(counter.done);
      expect(disk.head.number).toBeLessThanOrEqual(counter.started);
    }
    this.#taken = { memory, overlay, base, instant: counter.done, downtimeMs };
  }

  /** The last snapshot. */
  get taken(): Taken {
    if (this.#taken === undefined) throw new Error(`${this.name} has no snapshot`);
    return this.#taken;
  }

  async verify(): Promise<void> {
    await dom0.verifyByXen(this.taken.memory);
  }

  async configurationNamesOverlay(): Promise<void> {
    const json = await dom0.configuration(this.name);
    expect(json).toContain(`"pdev_path":"${this.taken.overlay}"`);
    expect(json).not.toContain(`"pdev_path":"${this.taken.base}"`);
  }

  /** Reverts it: it continues from the snapshot's instant, without a boot, and nothing is left behind. */
  async revert(): Promise<void> {
    const { memory, instant } = this.taken;
    const before = await dom0.lab.waitForTicks(this.name, 10);
    expect(before.n).toBeGreaterThan(instant + 10);
    await this.#goesOnFromInstant(() => dom0.result(`snapshot-revert ${this.name} ${memory}.cfg`));
    const { stdout } = await dom0.lab.run(
      `ls ${this.folder}; qemu-img snapshot -l ${this.#image('xvda')} -U`,
    );
    expect(stdout).not.toMatch(/before-|fresh-|partial/);
  }

  /** Shuts it down, and creates it again from its file, which names the overlay by then: xl generates another uuid. */
  async createAgain(): Promise<void> {
    const cfg = this.#guest?.cfg ?? '';
    const before = await this.#domain();
    const lives = (await dom0.lab.guestReport(this.name)).up.length;
    // `xl shutdown -w` does not wait until xl has removed the domain.
    await dom0.lab.run(`xl shutdown ${this.name}; while xl domid ${this.name}; do sleep 0.5; done`, {
      timeoutMs: 300_000,
    });
    await dom0.lab.run(`sed -i 's,${this.taken.base},${this.taken.overlay},' ${cfg}; ! grep ^uuid ${cfg}`);
    await dom0.lab.run(`xl create ${cfg}`, { timeoutMs: 180_000 });
    await this.#comesUp(lives);
    const after = await this.#domain();
    expect(after.domid).toBeGreaterThan(before.domid);
    expect(after.uuid).not.toBe(before.uuid);
  }

  /** Reboots it: it continues with the overlay's number, and the base stays as it was. */
  async reboot(): Promise<void> {
    const before = await dom0.lab.counter(this.name);
    const lives = (await dom0.lab.guestReport(this.name)).up.length;
    await dom0.lab.run(`xl reboot ${this.name}`);
    const life = await this.#comesUp(lives);
    expect(life?.disks.get('xvdb')).toBeGreaterThanOrEqual(before?.n ?? Number.POSITIVE_INFINITY);
    const base = await dom0.diskCounter(this.taken.base, 'qcow2');
    expect(base.head.number).toBeLessThanOrEqual(this.taken.instant + 1);
  }

  /**
   * Runs plain `xl restore`. The user takes care of the disks; the file names the base, which nobody has
   * written to.
   */
  async restoreByXl(name: string): Promise<void> {
    await dom0.lab.run(`xl destroy ${this.name}; qemu-img snapshot -a ${name} ${this.#image('xvda')}`, {
      timeoutMs: 60_000,
    });
    await this.#goesOnFromInstant(() =>
      dom0.lab.run(`xl restore ${this.#memory(name)}`, { timeoutMs: 180_000 }),
    );
  }

  async goOn(): Promise<void> {
    await dom0.lab.waitForTicks(this.name, 10);
    expect((await dom0.lab.guestReport(this.name)).complaints).toEqual([]);
  }

  /** Waits for a life after a given number of others. */
  async #comesUp(lives: number): Promise<GuestUp | undefined> {
    await expect
      .poll(async () => (await dom0.lab.guestReport(this.name)).up.length, {
        timeout: 300_000,
        interval: 2000,
      })
      .toBeGreaterThan(lives);
    await this.goOn();
    return (await dom0.lab.guestReport(this.name)).up.at(-1);
  }

  async #goesOnFromInstant(bring: () => Promise<unknown>): Promise<void> {
    const before = await dom0.lab.guestReport(this.name);
    const numbers = before.ticks.map((tick) => tick.n);
    await bring();
    await this.goOn();
    const after = await dom0.lab.guestReport(this.name);
    expect(after.up).toHaveLength(before.up.length);
    // Ticks printed between the report and the destroy come first; they are higher than those before them.
    const rest = after.ticks.slice(numbers.length);
    const first = rest.find((tick, at) => tick.n < (rest[at - 1]?.n ?? numbers.at(-1) ?? 0));
    expect(first?.n).toBeGreaterThanOrEqual(this.taken.instant);
    expect(first?.n).toBeLessThan(this.taken.instant + 5);
  }

  async #domain(): Promise<{ readonly domid: number; readonly uuid: string }> {
    const { stdout } = await dom0.lab.run(`xl list -v ${this.name} | tail -n 1`);
    const [, domid = ''] = stdout.split(/\s+/);
    const [uuid = ''] = /[0-9a-f]{8}-[0-9a-f-]{27}/.exec(stdout) ?? [];
    return { domid: Number(domid), uuid };
  }

  #memory(name: string): string {
    return `${this.folder}/${name}.save`;
  }

  #image(vdev: string): string {
    return this.#guest?.disks.find((disk) => disk.vdev === vdev)?.path ?? `no ${vdev}`;
  }
}

/** Prints how long each step takes. */
function stepsOf(type: GuestType, scenario: Scenario) {
  const step = async (what: string, job: () => Promise<void>): Promise<void> => {
    const start = performance.now();
    await job();
    console.log(`  ${type}: ${what}, ${((performance.now() - start) / 1000).toFixed(1)} s`);
  };
  const create = async (name: string, isLive = false): Promise<void> => {
    const what = `is snapshotted${isLive ? ' live' : ''} at one instant and goes on`;
    await step(what, () => scenario.create(name, isLive));
    console.log(`  ${type}: stopped for ${scenario.taken.downtimeMs} ms by its own clock`);
    await step("its file is accepted by Xen's own verifier", () => scenario.verify());
  };
  return { step, create };
}

/**
 * Under emulation a guest may die at any time, and then all its steps are repeated: two scenarios of a few
 * minutes finish sooner than a long one.
 */
describe.each(TYPES)('a %s guest with an internal and an external snapshot', (type) => {
  const live = type !== 'pv' || PV_LIVE;
  const scenario = new Scenario(type);
  const { step, create } = stepsOf(type, scenario);
  const steadily = (job: () => Promise<void>) => async () => {
    await dom0.steadily(scenario.name, async () => {
      await step('starts', () => scenario.start());
      await job();
    });
    await dom0.lab.removeGuest(scenario.name);
  };

  it(
    'a guest is snapshotted and reverted, and continues on the overlay after a reboot',
    steadily(async () => {
      await create('s1');
      await step('its configuration names the overlay', () => scenario.configurationNamesOverlay());
      await step('is reverted', () => scenario.revert());
      if (type === 'pv') {
        await step('is created again, without a uuid in its file', () => scenario.createAgain());
        await step('is reverted again, without --force', () => scenario.revert());
      }
      await step('continues on the overlay after a reboot', () => scenario.reboot());
      if (!live) await step('s1 is restored by plain xl restore', () => scenario.restoreByXl('s1'));
    }),
  );

  it.runIf(live)(
    'a guest is snapshotted live, reverted to that, and restored by plain xl',
    steadily(async () => {
      await create('s2', true);
      await step('is reverted to the live snapshot', () => scenario.revert());
      await step('s2 is restored by plain xl restore', () => scenario.restoreByXl('s2'));
    }),
  );
});
