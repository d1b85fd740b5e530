/** list, delete and revert by name, of a real guest on real Xen; the guest's own counter is the judge. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { LabGuest } from '../../lab/lab.ts';
import { Dom0, errorOf, PV_LIVE } from './host.ts';

const NAME = 'e2e-list';
const FOLDER = '/lab/list';

const wanted = process.env['XLSNAP_LAB_LIST'] === '1';
if (!wanted) {
  console.log(
    'skipped: list, delete and revert by name in the lab; XLSNAP_LAB_LIST=1 runs all three, in half an hour',
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
  readonly problems: readonly { readonly code: string }[];
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

/**
 * xvdb, or both disks, by overlays if they are named, else inside their images.
 * @returns the counter at the snapshot's instant
 */
async function take(name: string, external: boolean | readonly string[], options = ''): Promise<number> {
  const outside = typeof external === 'boolean' ? (external ? ['xvdb'] : []) : external;
  const disks = ['xvda', 'xvdb'].map((vdev) =>
    outside.includes(vdev) ? `'${FOLDER}/${vdev}-${name}.qcow2,qcow2,${vdev}'` : `',,${vdev}'`,
  );
  await dom0.lab.run(`cat >${FOLDER}/snap.cfg`, { input: `name="${name}"\ndisks=[${disks.join(', ')}]\n` });
  await dom0.lab.waitForTicks(NAME, 5);
  const { plan } = (await dom0.result(`snapshot-create ${NAME} ${FOLDER}/snap.cfg ${options}`)) as {
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

/** Reverts by name. The guest continues from the instant of the snapshot, with all its disks of that instant. */
async function revertTo(name: string, instant: number, options = ''): Promise<void> {
  const before = (await dom0.lab.guestReport(NAME)).ticks.length;
  expect(await dom0.result(`snapshot-revert ${NAME} ${name} ${options}`)).toMatchObject({ plan: { name } });
  await guestGoesOn();
  const report = await dom0.lab.guestReport(NAME);
  expect(report.up).toHaveLength(1);
  const rest = report.ticks.slice(before).map(({ n }) => n);
  // Back, or forward to a later snapshot: what follows is not the next number.
  const first = rest.find((n, at) => n !== (rest[at - 1] ?? report.ticks[before - 1]?.n ?? 0) + 1);
  expect(first).toBeGreaterThanOrEqual(instant);
  expect(first).toBeLessThan(instant + 5);
}

/** Its QEMU has none of the overlays open, and is asked which image a disk is on: a killed merge leaves xenstore as it was. */
async function expectMerged(): Promise<void> {
  const domain = `/local/domain/$(xl domid ${NAME})`;
  const open = await dom0.lab.run(`ls -l /proc/$(xenstore-read ${domain}/image/device-model-pid)/fd`);
  expect(open.stdout).toContain(image('xvda'));
  expect(open.stdout).not.toContain(FOLDER);
  const params = `/local/domain/0/backend/qdisk/$(xl domid ${NAME})/51712/params`;
  await dom0.lab.run(`xenstore-write ${params} qcow2:${FOLDER}/xvda-e1.qcow2`);
  const plan = await dom0.result(`snapshot-create ${NAME} --dry-run`);
  expect(JSON.stringify(plan)).toContain(image('xvda'));
  expect(JSON.stringify(plan)).not.toContain('xvda-e1');
  await dom0.lab.run(`xenstore-write ${params} qcow2:${image('xvda')}`);
}

async function shutDown(): Promise<void> {
  await dom0.lab.run(`xl destroy ${NAME}; while xl domid ${NAME} 2>/dev/null; do sleep 0.5; done`, {
    timeoutMs: 120_000,
  });
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

    await revertTo('e3', instant);

    // With the guest down, the tags in the base of e3 can go together with it.
    await shutDown();
    const kept = errorOf(await dom0.xlsnap(`snapshot-delete ${NAME} --keep 1 --json`));
    expect(kept.message).toContain('is the base of snapshot "e3"');
    expect(await names()).toEqual(['i1', 'i2', 'e3']);
    await dom0.result(`snapshot-delete ${NAME} i1 i2 e3 --merge`);
    expect(await names()).toEqual([]);
    const { stdout: files } = await dom0.lab.run('find /var/lib/xen/snapshots -mindepth 1');
    expect(files).toBe('');
    expect((await dom0.lab.run(`ls ${FOLDER}`)).stdout).not.toContain('qcow2');
    for (const path of [image('xvda'), image('xvdb')]) {
      expect(await tagsOf(path)).not.toMatch(/\b(i1|i2|e3|i4)\b/);
      await dom0.lab.run(`qemu-img check -q ${path}`);
    }
  });
});

it.runIf(wanted)('of ten snapshots, three are kept, and each of them can be reverted to', async () => {
  await dom0.steadily(NAME, async () => {
    await start();
    const live = PV_LIVE ? '--live' : '';
    await take('e1', ['xvda', 'xvdb']);
    await take('e2', ['xvda', 'xvdb'], live);
    await take('m3', ['xvdb']);
    for (const name of ['i4', 'i5', 'i6', 'i7']) await take(name, false, name === 'i6' ? live : '');
    const instants = new Map<string, number>();
    for (const name of ['i8', 'i9', 'i10'])
      instants.set(name, await take(name, false, name === 'i8' ? live : ''));

    await dom0.result(`snapshot-delete ${NAME} --keep 3`);
    await guestGoesOn();
    // What the guest has written since the external ones is in their overlays, until it is merged.
    expect((await listed()).map(({ name, revert, problems }) => [name, revert, problems[0]?.code])).toEqual([
      ['e1', 'impossible', 'OVERLAY_LEFT'],
      ['e2', 'impossible', 'OVERLAY_LEFT'],
      ['m3', 'impossible', 'OVERLAY_LEFT'],
      ['i8', 'possible', undefined],
      ['i9', 'possible', undefined],
      ['i10', 'possible', undefined],
    ]);
    const files = (await dom0.lab.run('find /var/lib/xen/snapshots -type f -printf "%f\\n" | sort')).stdout;
    expect(files).not.toMatch(/^(e1|e2|m3|i[4-7])\.save(\.cfg)?$/m);
    expect(files).not.toMatch(/journal|partial/);
    for (const path of [`${FOLDER}/xvda-e2.qcow2`, `${FOLDER}/xvdb-m3.qcow2`]) {
      const tags = await tagsOf(path);
      expect(tags).not.toMatch(/\b(m3|i4|i5|i6|i7)\b/);
      for (const name of instants.keys()) expect(tags).toMatch(new RegExp(`\\b${name}\\b`));
    }

    for (const [name, instant] of instants) await revertTo(name, instant);

    await dom0.result(`snapshot-delete ${NAME} ${[...instants.keys()].join(' ')}`);
    await dom0.result(`snapshot-delete ${NAME} --merge`);
    await guestGoesOn();
    expect(await names()).toEqual([]);
    expect((await dom0.lab.run('find /var/lib/xen/snapshots -mindepth 1')).stdout).toBe('');
    expect((await dom0.lab.run(`ls ${FOLDER}`)).stdout).not.toContain('qcow2');
    await expectMerged();
    await shutDown();
    for (const vdev of ['xvda', 'xvdb']) {
      expect(await tagsOf(image(vdev))).toBe('');
      await dom0.lab.run(`qemu-img check -q ${image(vdev)}`);
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
