/** xlsnap killed by SIGKILL on real Xen: the guest keeps running, and the guardian leaves nothing behind. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Dom0 } from './host.ts';
import { SharedGuest, smallGuest } from './shared-guest.ts';

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

/**
 * How long libxl waits for a guest that has acknowledged a suspend: the guardian may have to wait as long.
 */
const GUARDIAN_MS = 120_000;
/** Far more than it takes. The actual time is printed, since machines are noisy. */
const GOES_ON_MS = 30_000;

/** When a create is killed: this many seconds after the phase began. */
interface Kill {
  readonly phase: string;
  readonly seconds: number;
}

const kill = (phase: string, seconds: number): Kill => ({ phase, seconds });

const all = process.env['XLSNAP_LAB_KILLS'] === '1';
if (!all)
  console.log('skipped: most kills in the lab; XLSNAP_LAB_KILLS=1 does all 26, in a quarter of an hour');

/** Kills that always run, and those that run only on request. */
const PAUSED: readonly Kill[] = [
  kill('suspend', 0),
  kill('memory', 1),
  kill('disks', 0.1),
  kill('finish', 0),
  ...(all
    ? [
        kill('plan', 0.5),
        kill('preflight', 0.5),
        kill('open', 0),
        kill('suspend', 0.2),
        kill('memory', 0),
        kill('memory', 3),
        kill('contexts', 0),
        kill('disks', 0),
        kill('disks', 0.3),
        kill('resume', 0),
        kill('finish', 0.3),
      ]
    : []),
];
const LIVE_HVM: readonly Kill[] = [
  kill('precopy', 0.5),
  kill('precopy', 3),
  kill('suspend', 0),
  kill('device-model', 0.2),
  kill('memory', 0),
  kill('disks', 0.1),
  kill('finish', 0),
];

describe.each([
  ['a PVH guest', 'e2e-kill', PAUSED, {}, ''],
  ['an HVM guest, live', 'e2e-kill-hvm', all ? LIVE_HVM : [], { type: 'hvm' }, '--live'],
] as const)('a create of %s that is killed', (_, name, kills, more, args) => {
  const guest = new SharedGuest(smallGuest(name, more), () => dom0);
  let number = 0;

  it.skipIf(kills.length === 0).each(kills)(
    'a kill in $phase, after $seconds s, leaves a running guest and nothing else',
    ({ phase, seconds }) =>
      guest.steadily(async () => {
        const path = await guest.configure(guest.cfgOf(`k${++number}`));
        const { code, action } = await dom0.during(
          `snapshot-create ${name} ${path} ${args}`,
          phase,
          `sleep ${seconds}; kill -9 $pid; from=$(date +%s%3N)
        until xl list ${name} | grep -qE ' [r-][b-]---- '; do
          [ $(($(date +%s%3N) - from)) -gt 60000 ] && break
        done; echo $(($(date +%s%3N) - from))`,
        );
        expect(code).toBe(128 + 9);
        console.log(`  it runs ${action.stdout.trim()} ms after the kill`);
        expect(Number(action.stdout)).toBeLessThan(GOES_ON_MS);
        await expect
          .poll(async () => (await dom0.lab.run('pgrep -f guardian-main', { check: false })).code, {
            timeout: GUARDIAN_MS,
            interval: 500,
          })
          .toBe(1);
        await guest.expectGoesOn();
        await guest.expectNothingLeft();
        expect(await logDirty(guest.domid)).toBe(false);
        expect(await dom0.configuration(name)).not.toContain(guest.overlay);
      }),
  );

  it.skipIf(kills.length === 0)('does not prevent the next create', () =>
    guest.steadily(async () => {
      await dom0.result(`snapshot-create ${name} ${await guest.configure(guest.cfgOf('last'))} ${args}`);
      await guest.expectGoesOn();
      await dom0.verifyByXen(`${guest.folder}/last.save`);
      await dom0.lab.removeGuest(name);
    }),
  );
});

describe('a revert that is killed', () => {
  const guest = new SharedGuest(smallGuest('e2e-kill-revert'), () => dom0);
  const { name, folder } = guest;
  const revert = `snapshot-revert ${name} ${folder}/s.save.cfg`;
  const journals = async (): Promise<string> =>
    (await dom0.lab.run('ls /var/lib/xen/snapshots/*.revert.journal 2>/dev/null', { check: false })).stdout;

  const kills = [
    { phase: 'restore', seconds: 3, outcomes: ['reverted', 'whole', 'undone'] },
    ...(all
      ? [
          { phase: 'disks', seconds: 0.3, outcomes: ['undone'] },
          { phase: 'destroy', seconds: 0, outcomes: ['undone'] },
          { phase: 'restore', seconds: 0, outcomes: ['reverted', 'undone'] },
        ]
      : []),
  ];

  it.each(kills)(
    'after a kill in $phase, after $seconds s, recover says how the disks are, and the same command continues',
    (kill) =>
      guest.steadily(async () => {
        const cfg = await guest.configure(guest.cfgOf('s'));
        await dom0.result(`snapshot-create ${name} ${cfg}`);
        await dom0.lab.waitForTicks(name, 8);
        const { code } = await dom0.during(revert, kill.phase, `sleep ${kill.seconds}; kill -9 $pid`);
        expect(code).toBe(128 + 9);
        expect(await journals()).not.toBe('');
        const { recovered } = (await dom0.result('recover')) as { recovered: readonly { outcome: string }[] };
        console.log(`  ${JSON.stringify(recovered)}`);
        expect(recovered).toHaveLength(1);
        expect(kill.outcomes).toContain(recovered[0]?.outcome);

        const told = (await dom0.lab.guestReport(name)).up.length;
        await dom0.result(revert);
        await dom0.lab.waitForTicks(name, 3);
        const report = await dom0.lab.guestReport(name);
        expect(report.complaints).toEqual([]);
        // Not booted: it continues from the snapshot.
        expect(report.up).toHaveLength(told);
        expect(await journals()).toBe('');
        const { stdout } = await dom0.lab.run(
          `ls ${folder}; qemu-img snapshot -U -l /lab/guests/${name}/xvda.qcow2`,
        );
        expect(stdout).not.toMatch(/before-|fresh-|partial/);
        guest.discard();
      }),
  );
});

/** Returns whether Xen keeps a dirty log of the domain, according to Xen's own dump of it. */
async function logDirty(domid: number): Promise<boolean> {
  const { stdout } = await dom0.lab.run('xl dmesg -c >/dev/null; xl debug-keys q; xl dmesg');
  const dump = stdout.split('General information for domain ').find((part) => part.startsWith(`${domid}:`));
  const [, modes] = /paging assistance: (.*)/.exec(dump ?? '') ?? [];
  if (modes === undefined) throw new Error(`Xen tells nothing of domain ${domid}`);
  return modes.includes('log_dirty');
}
