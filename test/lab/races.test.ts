/** What others do to a guest during a create on real Xen: the snapshot is complete, or there is none. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT } from '../../src/core/errors.ts';
import { Dom0, errorOf, type Said } from './host.ts';
import { SharedGuest, smallGuest } from './shared-guest.ts';

const NAME = 'e2e-race';

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

const guest = new SharedGuest(
  smallGuest(NAME, { onReboot: 'restart', extraCfg: ['on_poweroff = "preserve"'] }),
  () => dom0,
);
const MEMORY = `${guest.folder}/s.save`;

/** Makes a domain crash, from dom0, as Xen does to a faulty one. */
const CRASH = '/opt/xlsnap/crash.mjs';
const CRASH_SCRIPT = `
  import { SHUTDOWN, toDomid, XenControl } from 'xlsnap/xenctrl';
  const xen = await XenControl.open();
  await xen.shutdown(toDomid(Number(process.argv[2])), SHUTDOWN.SHUTDOWN_crash);
  process.exit();`;

/** Creates, and runs `action` as soon as `phase` has begun, while xlsnap continues. */
async function during(phase: string, action: string, args = '') {
  return await dom0.during(
    `snapshot-create ${NAME} ${await guest.configure(guest.cfgOf('s'))} ${args}`,
    phase,
    action,
  );
}

/** Does the same, with xlsnap stopped from the end of `first` until the action is done. */
async function stopped(phase: string, action: string, args = '', first = 'true') {
  return await during(
    phase,
    `${first}; kill -STOP $pid; ${action}; acted=$?; kill -CONT $pid; exit $acted`,
    args,
  );
}

const all = process.env['XLSNAP_LAB_RACES'] === '1';
if (!all) console.log('skipped: most races in the lab; XLSNAP_LAB_RACES=1 runs all 15, in eleven minutes');

/** Some cases always run, the others on request. */
function some<Case>(always: readonly Case[], others: readonly Case[]): readonly Case[] {
  return all ? [...always, ...others] : always;
}

/** Returns the error's code of a create that must have undone everything. */
function failure(said: Said): string {
  const error = errorOf(said);
  expect(error.undo_failures).toBeUndefined();
  return error.code;
}

/** Waits until `xl list` shows such flags of the domain. */
const until = (flags: string): string =>
  `until xl list ${NAME} | tail -n 1 | grep -qE ' ${flags} '; do sleep 0.2; done`;

describe('a guest that ends during a create', () => {
  it.each(
    some(
      [['is destroyed between its memory and its disks', 'contexts', 'true', ''] as const],
      [
        ['is destroyed while its memory is copied', 'memory', 'sleep 1', ''],
        ['is destroyed while it runs', 'precopy', 'sleep 1', '--live'],
      ],
    ),
  )('%s', (_, phase, wait, args) =>
    guest.steadily(async () => {
      const said = await stopped(phase, `xl destroy ${NAME}`, args, wait);
      expect(said.action).toMatchObject({ code: 0 });
      expect(failure(said)).toBe('DOMAIN_GONE');
      expect(said.code).toBe(EXIT.domain);
      await guest.expectNothingLeft();
    }),
  );

  it('is destroyed while its disks are snapshotted: the snapshot is complete, or there is none', () =>
    guest.steadily(async () => {
      const said = await during('disks', `xl destroy ${NAME}`);
      if (said.code === 0) {
        await dom0.verifyByXen(MEMORY);
        await dom0.lab.run(`rm -r ${guest.folder}; mkdir ${guest.folder}`);
      } else {
        // Its QEMU ends first: what needed a QEMU, and was tried in between, is left to the journal.
        if (errorOf(said).undo_failures !== undefined) await dom0.result(`recover ${MEMORY}`);
        await guest.expectNothingLeft();
      }
    }));

  it.runIf(all).each([
    ['shuts down', `xl shutdown ${NAME} && ${until('[r-][b-]-s--')}`, 'SUSPEND_OTHER'],
    ['crashes', `node ${CRASH} $domid && ${until('[r-][b-]-.c-')}`, 'SUSPEND_OTHER'],
    [
      'is started again',
      `xl reboot ${NAME} && until [ "$(xl domid ${NAME})" -gt $domid ]; do sleep 0.5; done`,
      'DOMAIN_GONE',
    ],
  ])('a guest %s before it is suspended: nothing is left of the create', (_, action, code) =>
    guest.steadily(async () => {
      await dom0.lab.run(`cat >${CRASH}`, { input: CRASH_SCRIPT });
      const said = await stopped('precopy', `domid=${guest.domid}; ${action}`, '--live');
      expect(said.action).toMatchObject({ code: 0 });
      expect(failure(said)).toBe(code);
      await guest.expectNothingLeft();
    }),
  );
});

describe('a guest that another program pauses', () => {
  it.each(
    some([['while its memory is copied', 'memory', ''] as const], [['while it runs', 'precopy', '--live']]),
  )('a guest that is paused %s stays paused', (_, phase, args) =>
    guest.steadily(async () => {
      const said = await stopped(phase, `xl pause ${NAME}`, args);
      expect(said.action).toMatchObject({ code: 0 });
      expect(said).toMatchObject({ code: 0 });
      expect((await dom0.lab.domains()).get(NAME)?.flags).toContain('p');
      await dom0.verifyByXen(MEMORY);
      await dom0.lab.run(`xl unpause ${NAME}`);
      await guest.expectGoesOn();
      guest.discard();
    }),
  );
});

describe('a guest that loses its devices', () => {
  it.runIf(all).each([
    ['a disk is detached', 'precopy', `xl block-detach ${NAME} xvdb --force`, '--live'],
    ['its QEMU dies', 'memory', 'kill -9 $(pgrep -f "xen-domid $domid ")', ''],
  ])('%s', (_, phase, action, args) =>
    guest.steadily(async () => {
      const said = await stopped(phase, `domid=${guest.domid}; ${action}`, args);
      guest.discard();
      expect(said.action).toMatchObject({ code: 0 });
      failure(said);
      // Its disks no longer exist, but it is not left stopped.
      expect((await dom0.lab.domains()).get(NAME)?.flags).not.toMatch(/[psc]/);
      await guest.expectNothingLeft();
    }),
  );
});

describe('a guest that xl migrates at the same time', () => {
  /**
   * A live migration whose other side goes away in the middle: the guest keeps running here. It has a session
   * of its own, which outlives ours.
   */
  const migrate =
    `setsid xl migrate -s '' ${NAME} 'echo "xl migration receiver ready, send binary domain data."; head -c 60000000 >/dev/null'` +
    ' </dev/null >/tmp/xl-migrate 2>&1';

  it('a guest that xl migrates is left to xl, before and during a create', () =>
    guest.steadily(async () => {
      // A helper that is stopped since emulation killed the guest of an earlier try is not the one to wait
      // for.
      await dom0.lab.run('pkill -KILL libxl-save-help; while pgrep libxl-save-help; do sleep 0.2; done');
      // xl's helper is stopped, so that both are in progress as long as needed.
      const said = await stopped(
        'precopy',
        `${migrate} & until pkill -STOP libxl-save-help; do sleep 0.1; done`,
        '--live',
      );
      expect(failure(said)).toBe('BEING_SAVED');
      const again = await dom0.xlsnap(`snapshot-create ${NAME} ${guest.folder}/x.cfg`);
      expect(again.stderr).toMatch(
        /another program is saving or migrating the domain: libxl-save-helper, pid \d+/,
      );
      expect(again.code).toBe(EXIT.preflight);
      await dom0.lab.run('pkill -CONT libxl-save-help; while pgrep libxl-save-help; do sleep 0.2; done', {
        timeoutMs: 120_000,
      });
      await guest.expectGoesOn();
      await guest.expectNothingLeft();
    }));

  it.runIf(all)('is copied once more, completely, if the migration has taken its dirty log', () =>
    guest.steadily(async () => {
      // Not before ours is on.
      const copying = `until grep -q '"phase":"precopy","done"' err; do sleep 0.02; done; sleep 1`;
      const said = await stopped('precopy', `! ${migrate}`, '--live', copying);
      expect(said.action).toMatchObject({ code: 0 });
      expect(said).toMatchObject({ code: 0 });
      const { rounds } = JSON.parse(said.stdout) as { rounds: readonly { readonly pages: number }[] };
      expect(rounds[1]?.pages).toBeGreaterThanOrEqual(rounds[0]?.pages ?? Number.NaN);
      await dom0.verifyByXen(MEMORY);
      await guest.expectGoesOn();
      guest.discard();
    }),
  );
});

describe('a dirty log', () => {
  const SCRIPT = `
    import { setTimeout as sleep } from 'node:timers/promises';
    import { toDomid, XenControl } from 'xlsnap/xenctrl';
    const domid = toDomid(Number(process.argv[2]));
    const ones = (bytes) => bytes.reduce((sum, byte) => (byte === 0 ? sum : sum + byte.toString(2).replaceAll('0', '').length), 0);
    const take = (final) => xen.takeDirty(domid, gfns, final).then(({ bitmap }) => ones(bitmap), (error) => error.code);
    const xen = await XenControl.open();
    const gfns = await xen.nrGpfns(domid);
    await xen.startDirtyLog(domid, gfns);
    await sleep(2000);
    const own = [await take(false), await take(true)];
    await xen.stopDirtyLog(domid);
    const off = await take(true);
    await sleep(2000);
    // The last one has turned it on: one that turns it off and on again.
    await xen.stopDirtyLog(domid);
    await take(true);
    const again = await take(false);
    await xen.stopDirtyLog(domid);
    console.log(JSON.stringify({ own, off, again, all: gfns }));
    process.exit();`;

  it('a dirty log that another program has turned off or restarted is not trusted', () =>
    guest.steadily(async () => {
      await dom0.lab.run('cat >/opt/xlsnap/log.mjs', { input: SCRIPT });
      const { stdout } = await dom0.lab.run(`cd /opt/xlsnap && node log.mjs ${guest.domid}`, {
        timeoutMs: 120_000,
      });
      console.log(`  ${stdout}`);
      const told = JSON.parse(stdout) as { own: number[]; off: unknown; again: number; all: number };
      expect(told.off).toBe('DIRTY_LOG_LOST');
      expect(told.again).toBe(told.all);
      expect(told.own[0]).toBeGreaterThan(0);
      for (const count of told.own) expect(count).toBeLessThan(told.all);
    }));
});

describe('a guest that suspends at the last moment', () => {
  it('a guest that suspends at the last moment has either suspended, or is running again', () =>
    guest.steadily(async () => {
      await dom0.lab.copyIn(join(import.meta.dirname, 'last-moment.mjs'), '/opt/xlsnap/last-moment.mjs');
      const { stdout } = await dom0.lab.run(`cd /opt/xlsnap && node last-moment.mjs ${NAME}`, {
        timeoutMs: 600_000,
      });
      const turns = stdout
        .trim()
        .split('\n')
        .map(
          (line) =>
            JSON.parse(line) as { outcome: string; shutdown?: string; left?: string; paused: boolean },
        );
      expect(turns.length).toBeGreaterThan(10);
      console.log(`  ${turns.map((turn) => turn.outcome).join(' ')}`);
      for (const turn of turns) {
        expect(turn.shutdown).toBe(turn.outcome === 'suspended' ? 'suspend' : undefined);
        expect(turn).toMatchObject({ paused: false });
        expect(turn.left).toBeUndefined();
      }
      await guest.expectGoesOn();
    }));
});
