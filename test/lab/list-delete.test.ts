/** list, delete and revert by name, of a real guest on real Xen; the guest's own counter is the judge. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { LabGuest } from '../../lab/lab.ts';
import { Dom0, errorOf } from './host.ts';

const NAME = 'e2e-list';
const FOLDER = '/lab/list';

const wanted = process.env['XLSNAP_LAB_LIST'] === '1';
if (!wanted) {
  console.log(
    'skipped: list, delete and revert by name in the lab; XLSNAP_LAB_LIST=1 runs both cases, in ten minutes',
  );
}

let dom0: Dom0;
beforeAll(async () => {
  if (wanted) dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

let guest: LabGuest;
const image = (vdev: string): string => guest.disks.find((disk) => disk.vdev === vdev)?.path ?? `no ${vdev}`;

interface Listed {
  readonly name: string;
  readonly revert: string;
  readonly memory_path: string;
}

async function start(): Promise<void> {
  await dom0.lab.removeGuest(NAME);
  await dom0.lab.run(`rm -rf ${FOLDER} /var/lib/xen/snapshots; mkdir -p ${FOLDER}`);
  guest = await dom0.lab.startGuest({
    type: 'pv',
    name: NAME,
    memoryMiB: 96,
    dirty: { mib: 4, rate: 100 },
    disks: [
      { vdev: 'xvda', format: 'qcow2', sizeMiB: 32 },
      { vdev: 'xvdb', format: 'qcow2', sizeMiB: 32 },
    ],
  });
}

/** xvda inside its image, and xvdb either inside or by an overlay. @returns the counter at the snapshot's instant */
async function take(name: string, external: boolean): Promise<number> {
  const second = external ? `${FOLDER}/xvdb-${name}.qcow2,qcow2,xvdb` : ',,xvdb';
  await dom0.lab.run(`cat >${FOLDER}/snap.cfg`, {
    input: `name="${name}"\ndisks=[',,xvda', '${second}']\n`,
  });
  await dom0.lab.waitForTicks(NAME, 5);
  const { plan } = (await dom0.result(`snapshot-create ${NAME} ${FOLDER}/snap.cfg`)) as {
    readonly plan: { readonly memory_path: string };
  };
  return (await dom0.memoryCounter(plan.memory_path)).done;
}

async function listed(): Promise<readonly Listed[]> {
  const { snapshots } = await dom0.result(`snapshot-list ${NAME}`);
  return snapshots as readonly Listed[];
}

const names = async (): Promise<readonly string[]> => (await listed()).map(({ name }) => name);

async function tagsOf(path: string): Promise<string> {
  return (await dom0.lab.run(`qemu-img snapshot -U -l ${path}`)).stdout;
}

async function guestGoesOn(): Promise<void> {
  await dom0.lab.waitForTicks(NAME, 5);
  expect((await dom0.lab.guestReport(NAME)).complaints).toEqual([]);
}

it.runIf(wanted)('snapshots of a running guest are listed, deleted, and reverted to by name', async () => {
  await dom0.steadily(NAME, async () => {
    await start();
    await take('i1', false);
    await take('i2', false);
    const instant = await take('e3', true);
    await take('i4', false);
    expect((await listed()).map(({ name, revert }) => `${name} ${revert}`)).toEqual([
      // xvdb of the first two is in the image below the overlay.
      'i1 risky',
      'i2 risky',
      'e3 risky',
      'i4 possible',
    ]);

    // The tags of xvdb are below the overlay, which only the QEMU of a domain that writes to them could delete.
    const plan = await dom0.result(`snapshot-delete ${NAME} --keep 1 --dry-run`);
    expect(plan).toMatchObject({ snapshots: [{ name: 'e3' }], refused: [{ name: 'i2' }, { name: 'i1' }] });
    const refused = errorOf(await dom0.xlsnap(`snapshot-delete ${NAME} i1 --json`));
    expect(refused.code).toBe('IMAGE_IN_USE');
    expect(await names()).toEqual(['i1', 'i2', 'e3', 'i4']);

    // i4 is in the images that the guest writes to: its own QEMU deletes the tags while it runs.
    await dom0.result(`snapshot-delete ${NAME} i4`);
    expect(await names()).toEqual(['i1', 'i2', 'e3']);
    expect(await tagsOf(image('xvda'))).not.toMatch(/\bi4\b/);
    expect(await tagsOf(`${FOLDER}/xvdb-e3.qcow2`)).not.toMatch(/\bi4\b/);
    await guestGoesOn();

    // By name; it continues from the instant of the snapshot.
    const before = (await dom0.lab.guestReport(NAME)).ticks.length;
    const reverted = await dom0.result(`snapshot-revert ${NAME} e3`);
    expect(reverted).toMatchObject({ plan: { name: 'e3' } });
    await guestGoesOn();
    const report = await dom0.lab.guestReport(NAME);
    expect(report.up).toHaveLength(1);
    const rest = report.ticks.slice(before).map(({ n }) => n);
    const first = rest.find((n, at) => n < (rest[at - 1] ?? report.ticks[before - 1]?.n ?? 0));
    expect(first).toBeGreaterThanOrEqual(instant);
    expect(first).toBeLessThan(instant + 5);

    // With the guest down, the tags in the base of e3 can go together with it.
    await dom0.lab.run(`xl destroy ${NAME}; while xl domid ${NAME} 2>/dev/null; do sleep 0.5; done`, {
      timeoutMs: 120_000,
    });
    const kept = errorOf(await dom0.xlsnap(`snapshot-delete ${NAME} --keep 1 --json`));
    expect(kept.message).toContain('is the base of snapshot "e3"');
    expect(await names()).toEqual(['i1', 'i2', 'e3']);
    await dom0.result(`snapshot-delete ${NAME} i1 i2 e3`);
    expect(await names()).toEqual([]);
    const { stdout: files } = await dom0.lab.run('find /var/lib/xen/snapshots -mindepth 1');
    expect(files).toBe('');
    for (const path of [image('xvda'), image('xvdb'), `${FOLDER}/xvdb-e3.qcow2`]) {
      expect(await tagsOf(path)).not.toMatch(/\b(i1|i2|e3|i4)\b/);
      await dom0.lab.run(`qemu-img check -q ${path}`);
    }
  });
});

it.runIf(wanted)('a delete that is killed is finished by recover, or by the same command', async () => {
  await dom0.steadily(NAME, async () => {
    await start();
    for (const end of ['recover', `snapshot-delete ${NAME} k`]) {
      await take('k', false);
      const { stdout } = await dom0.during(`snapshot-delete ${NAME} k`, 'delete', 'sleep 0.1; kill -9 $pid');
      const [found] = await listed();
      // Killed before it had begun, in the middle, or when all was done.
      if (found?.revert === 'possible') await dom0.result(`snapshot-delete ${NAME} k`);
      else if (found !== undefined || stdout === '') await dom0.xlsnap(end);
      expect(await names()).toEqual([]);
      expect((await dom0.lab.run('find /var/lib/xen/snapshots -type f')).stdout).toBe('');
      for (const vdev of ['xvda', 'xvdb']) expect(await tagsOf(image(vdev))).not.toMatch(/\bk\b/);
      await guestGoesOn();
    }
  });
});
