/** Guests on LVM volumes and raw files: snapshots by their storage, checked by the guest's own counter. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GuestDisk, GuestType } from '../../lab/guests.ts';
import type { LabGuest } from '../../lab/lab.ts';
import { EXIT } from '../../src/core/errors.ts';
import { Dom0, errorOf, PV_LIVE, TYPES, XEN } from './host.ts';

/** Longer than LVM needs beside a guest that writes. */
const TICK_MS = 500;
/** Time limit for commands of LVM in milliseconds: with a guest that writes they take seconds each. */
const LVM_MS = 300_000;

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

interface Planned {
  readonly memory_path: string;
  readonly disks: readonly {
    readonly vdev: string;
    readonly kind: string;
    readonly image: string;
    readonly storage?: string;
    readonly snapshot?: string;
    readonly tag?: string;
  }[];
}

interface Phase {
  readonly name: string;
  readonly seconds: number;
}

/** The storage of each kind of the lab's disks. */
const STORAGES = {
  thin: 'lvm-thin',
  lvm: 'lvm-thick',
  'raw-xfs': 'reflink',
  'raw-btrfs': 'reflink',
  qcow2: undefined,
  raw: undefined,
};

/** What is lived through with one guest: booting it takes longest. */
interface Life {
  readonly type: GuestType;
  readonly disks: readonly GuestDisk['format'][];
  readonly backend?: 'phy' | 'qdisk';
  readonly live: boolean;
  readonly reverts: number;
}

const LIVES: readonly Life[] = [
  { type: 'pv', disks: ['thin', 'raw-xfs'], live: PV_LIVE, reverts: 1 },
  { type: 'pvh', disks: ['thin', 'raw-xfs'], live: true, reverts: 2 },
  { type: 'hvm', disks: ['lvm'], live: false, reverts: 1 },
];

/** All storages with each backend, beside a qcow2 image in the same snapshot. */
const COMBINATIONS: readonly Life[] = (['phy', 'qdisk'] as const).map((backend) => ({
  type: 'pv',
  disks: ['qcow2', 'thin', 'lvm', 'raw-xfs', 'raw-btrfs'],
  backend,
  live: false,
  reverts: 2,
}));

const all = process.env['XLSNAP_LAB_STORAGE'] === 'all';
const wanted = process.env['XLSNAP_LAB_STORAGE_TYPES']?.split(',');

const cases = [...LIVES, ...(all ? COMBINATIONS : [])]
  .filter(({ type }) => TYPES.includes(type) && (wanted?.includes(type) ?? true))
  .map((life) => {
    const how = `${life.disks.join(', ')} by ${life.backend ?? 'blkback'}, ${life.live ? 'live' : 'stopped'}`;
    return [life.type, how, life] as const;
  });

it.each(cases)(
  'a %s guest on %s is snapshotted at one instant while it writes, and reverted again and again',
  async (type, _how, life) => {
    const name = `e2e-storage-${type}${life.backend === undefined ? '' : `-${life.backend}`}`;
    await dom0.steadily(name, async () => {
      const guest = await start(name, type, life.disks, life.backend);
      await lifeOf(guest, name, life);
    });
    await dom0.lab.removeGuest(name);
  },
);

async function start(
  name: string,
  type: GuestType,
  formats: Life['disks'],
  backend?: Life['backend'],
): Promise<LabGuest> {
  await dom0.lab.removeGuest(name);
  await dom0.lab.run('rm -rf /var/lib/xen/snapshots');
  const disks = formats.map((format, at) => ({
    vdev: `xvd${'abcde'[at]}`,
    format,
    sizeMiB: 32,
    ...(backend === undefined || format === 'qcow2' ? {} : { backend }),
  }));
  const guest = await dom0.lab.startGuest({ type, name, memoryMiB: 84, tickMs: TICK_MS, disks });
  await dom0.lab.waitForTicks(name, 70);
  return guest;
}

/** Takes a snapshot, reverts to it, and deletes it. */
async function lifeOf(guest: LabGuest, name: string, life: Life): Promise<void> {
  const instant = await create(guest, name, life);
  for (let time = 1; time <= life.reverts; time++) {
    await dom0.lab.waitForTicks(name, 4);
    await revert(name, instant, time);
  }
  expect(await dom0.result(`snapshot-list ${name}`)).toMatchObject({
    snapshots: [{ name: 's1', revert: 'possible', problems: [], risks: [] }],
  });
  await dom0.result(`snapshot-delete ${name} s1`);
  await goOn(name);
  await expectNothingLeft(guest, name);
}

/** @returns the number at the snapshot's instant */
async function create(guest: LabGuest, name: string, { live, disks: formats }: Life): Promise<number> {
  const result = await dom0.result(`snapshot-create ${name} --name s1 ${live ? '--live' : ''}`);
  const { memory_path: memoryPath, disks } = result['plan'] as Planned;
  expect(disks.map(({ storage }) => storage)).toEqual(formats.map((format) => STORAGES[format]));
  for (const [at, { storage, snapshot }] of disks.entries()) {
    if (storage === 'reflink') expect(snapshot).toBe(`${guest.disks[at]?.path}.s1`);
  }
  report(
    `${live ? 'live' : 'stopped'}: stopped for ${Number(result['downtime_seconds']).toFixed(1)} s`,
    result,
  );
  await goOn(name);
  const counter = await dom0.memoryCounter(memoryPath);
  for (const disk of disks) {
    const { vdev } = disk;
    const { problems, head } = await counterOf(disk);
    expect(problems, vdev).toEqual([]);
    expect(head.number, vdev).toBeGreaterThanOrEqual(counter.done);
    expect(head.number, vdev).toBeLessThanOrEqual(counter.started);
  }
  return counter.done;
}

function report(what: string, result: Record<string, unknown>): void {
  const phases = (result['phases'] as readonly Phase[])
    .filter(({ seconds }) => seconds >= 0.05)
    .map(({ name, seconds }) => `${name} ${seconds.toFixed(1)}`);
  console.log(`  Xen ${XEN}, ${what}: ${phases.join(', ')}`);
}

/** The counter's part of a disk's snapshot. */
async function counterOf({ kind, storage, image, snapshot = '', tag }: Planned['disks'][number]) {
  if (kind === 'internal') return await dom0.diskCounter(image, 'qcow2', tag);
  if (storage !== 'lvm-thin') return await dom0.diskCounter(snapshot, 'raw');
  // It is not active.
  await dom0.lab.run(`lvchange -qq -ay -K ${snapshot}`, { timeoutMs: LVM_MS });
  try {
    return await dom0.diskCounter(snapshot, 'raw');
  } finally {
    await dom0.lab.run(`lvchange -qq -an ${snapshot}`, { timeoutMs: LVM_MS });
  }
}

async function revert(name: string, instant: number, time: number): Promise<void> {
  const before = await dom0.lab.guestReport(name);
  const numbers = before.ticks.map((tick) => tick.n);
  const result = await dom0.result(`snapshot-revert ${name} s1`);
  report(`revert ${time} in ${Number(result['total_seconds']).toFixed(1)} s`, result);
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
    `lvs --noheadings -o lv_name lab; ls /lab/xfs /lab/btrfs 2>/dev/null; find /var/lib/xen/snapshots -name '*.journal' 2>/dev/null || true`,
    { timeoutMs: LVM_MS },
  );
  return stdout
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith(name) || line.endsWith('.journal'))
    .sort();
}

async function expectNothingLeft(guest: LabGuest, name: string): Promise<void> {
  const own = guest.disks.filter(({ format }) => format !== 'qcow2');
  expect(await left(name)).toEqual(own.map(({ path }) => path.split('/').at(-1)).sort());
}

/** Behind `XLSNAP_LAB_STORAGE=all`: each takes minutes under emulation. */
describe.runIf(all)('on real LVM', () => {
  const name = 'e2e-storage-faults';
  const FORMATS = ['thin', 'lvm', 'raw-xfs'] as const;
  let guest: LabGuest;
  beforeAll(async () => {
    guest = await start(name, 'pv', FORMATS);
  });
  afterAll(() => dom0.lab.removeGuest(name));

  /** Runs xlsnap with LVM's and cp's commands wrapped: once the n-th that changes something has ended, xlsnap is killed. */
  async function killedAfter(n: number, args: string): Promise<boolean> {
    const bin = '/lab/killing';
    const { stdout } = await dom0.lab.run(
      `rm -rf ${bin} /lab/killing.*; mkdir ${bin}; echo 0 >/lab/killing.count
      for program in lvcreate lvconvert lvchange lvrename lvremove cp; do
        cat >${bin}/$program <<'END'
#!/bin/sh
PATH=\${PATH#/lab/killing:} "\${0##*/}" "$@"; status=$?
count=$(($(cat /lab/killing.count) + 1)); echo $count >/lab/killing.count
if [ $count -eq ${n} ]; then echo "$PPID: \${0##*/} $*" >/lab/killing.at; kill -9 $PPID; fi
exit $status
END
        chmod +x ${bin}/$program
      done
      PATH=${bin}:$PATH xlsnap ${args} --json >/lab/killing.out 2>&1
      cat /lab/killing.at 2>/dev/null || true`,
      { timeoutMs: 900_000 },
    );
    if (stdout !== '') console.log(`  killed: ${stdout.trim()}`);
    return stdout !== '';
  }

  it('a create whose process is killed after any command of LVM is undone', async () => {
    for (let n = 1; await killedAfter(n, `snapshot-create ${name} --name s1`); n++) {
      // The guardian may be at it.
      await dom0.lab.run('i=0; until xlsnap recover || [ $i -ge 20 ]; do i=$((i + 1)); sleep 3; done', {
        timeoutMs: 900_000,
      });
      await goOn(name);
      await expectNothingLeft(guest, name);
    }
    await goOn(name);
    await dom0.result(`snapshot-delete ${name} s1`);
    await expectNothingLeft(guest, name);
  });

  it('a thin pool and a volume group that are full are refused, and the guest is unharmed', async () => {
    const fill = `lvcreate -qq -y -V 4G -T lab/pool -n filler
      set -- $(lvs --noheadings --units m --nosuffix -o lv_size,data_percent lab/pool)
      dd if=/dev/zero of=/dev/lab/filler bs=1M count=$(awk "BEGIN { print int($1 * (0.99 - $2 / 100)) }") oflag=direct conv=nocreat`;
    for (const [make, code] of [
      [fill, 'LVM_POOL_FULL'],
      ['lvcreate -qq -y -Wn -Zn -l 100%FREE -n filler lab', 'LVM_NO_ROOM'],
    ] as const) {
      await dom0.lab.run(make, { timeoutMs: 900_000 });
      try {
        const said = await dom0.xlsnap(`snapshot-create ${name} --name full --json`);
        const error = errorOf(said);
        expect(`${error.code} ${said.stderr}`).toContain(code);
      } finally {
        await dom0.lab.run('lvremove -qq -f -y lab/filler', { timeoutMs: LVM_MS });
      }
      await goOn(name);
      await expectNothingLeft(guest, name);
    }
  });

  it('a create while udevd does not run is refused before the guest is stopped', async () => {
    await dom0.lab.run('pkill -x systemd-udevd; while pidof systemd-udevd; do sleep 0.2; done');
    try {
      const said = await dom0.xlsnap(`snapshot-create ${name} --name none --json`);
      expect(errorOf(said).message).toContain('udevd does not run');
      expect(said.code).toBe(EXIT.preflight);
    } finally {
      await dom0.lab.run('/usr/lib/systemd/systemd-udevd --daemon; udevadm settle', { timeoutMs: LVM_MS });
    }
    await goOn(name);
    await expectNothingLeft(guest, name);
  });

  it('a create whose LVM hangs while the guest is stopped is given up, and recover undoes it later', async () => {
    const bin = '/lab/hanging';
    await dom0.lab.run(
      `rm -rf ${bin}; mkdir ${bin}
      printf '#!/bin/sh\nPATH=\${PATH#${bin}:}\nsleep 987\nexec lvconvert "$@"\n' >${bin}/lvconvert; chmod +x ${bin}/lvconvert`,
    );
    const { stdout } = await dom0.lab.run(
      `PATH=${bin}:$PATH xlsnap snapshot-create ${name} --name hangs --json 2>&1 | grep message_type`,
      { timeoutMs: LVM_MS },
    );
    expect(stdout).toContain('LVM_HANGS');
    await goOn(name);
    // Then it ends after all, and nobody waits for what it does.
    await dom0.lab.run("pkill -f '^sleep 987'; while pgrep -x lvconvert; do sleep 0.5; done", {
      timeoutMs: LVM_MS,
    });
    await dom0.result('recover');
    await goOn(name);
    await expectNothingLeft(guest, name);
  });

  it('a snapshot whose volume was renamed or removed is not reverted to, and the guest keeps running', async () => {
    await dom0.result(`snapshot-create ${name} --name gone`);
    for (const [change, back] of [
      ['lvrename -qq lab/NAME lab/other', 'lvrename -qq lab/other lab/NAME'],
      ['lvremove -qq -f -y lab/NAME', 'true'],
    ] as const) {
      const volume = `$(lvs --noheadings -o lv_name lab | tr -d ' ' | grep -m1 '^${name}-xvdb.*gone')`;
      await dom0.lab.run(
        `v=${volume}; [ -n "$v" ]; echo "$v" >/lab/volume; ${change.replaceAll('NAME', '$v')}`,
        {
          timeoutMs: LVM_MS,
        },
      );
      const said = await dom0.xlsnap(`snapshot-revert ${name} gone --json`);
      expect(errorOf(said).message).toMatch(/gone/);
      await goOn(name);
      await dom0.lab.run(back.replaceAll('NAME', '$(cat /lab/volume)'), { timeoutMs: LVM_MS });
    }
    await dom0.result(`snapshot-delete ${name} gone`);
    await expectNothingLeft(guest, name);
  });

  it('a raw file on ext4 behind blkback is refused, with what would help', async () => {
    const other = 'e2e-storage-ext4';
    await start(other, 'pv', ['raw'], 'phy');
    const said = await dom0.xlsnap(`snapshot-create ${other} --json`);
    expect(errorOf(said).message).toMatch(/no reflinks/);
    expect(said.stderr).toMatch(/XFS or btrfs/);
    expect(said.code).toBe(EXIT.preflight);
    await goOn(other);
    await dom0.lab.removeGuest(other);
  });

  it('a snapshot whose store was too small is refused by a revert, and the guest keeps running', async () => {
    await dom0.lab.run(
      `printf '%s\\n' 'name="small"' "disks=[',,xvda', ',,xvdb,cow=4M', ',,xvdc']" >/lab/small.cfg`,
    );
    await dom0.result(`snapshot-create ${name} /lab/small.cfg`);
    // The counter does not use the end of the disk.
    const volume = guest.disks[1]?.path ?? '';
    await dom0.lab.run(
      `dd if=/dev/urandom of=${volume} bs=1M seek=16 count=12 oflag=direct conv=nocreat,notrunc`,
      {
        timeoutMs: 600_000,
      },
    );
    const said = await dom0.xlsnap(`snapshot-revert ${name} small --force --json`);
    expect(errorOf(said)).toMatchObject({ code: 'SNAPSHOT_INVALID' });
    await goOn(name);
    await dom0.result(`snapshot-delete ${name} small`);
    await expectNothingLeft(guest, name);
  });

  it('a revert whose process is killed after any command of LVM is finished by the same command', async () => {
    await dom0.result(`snapshot-create ${name} --name s1`);
    const [snapshot] = (await dom0.result(`snapshot-list ${name}`))['snapshots'] as readonly {
      memory_path: string;
    }[];
    const { done } = await dom0.memoryCounter(snapshot?.memory_path ?? '');
    for (let n = 1; await killedAfter(n, `snapshot-revert ${name} s1`); n++) {
      await revert(name, done, n);
    }
    await goOn(name);
    await dom0.result(`snapshot-delete ${name} s1`);
    await expectNothingLeft(guest, name);
  });
});
