/** The Debian package on a dom0 without npm: installed by apt, used, and purged. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { buildDeb } from '../../scripts/deb/build.ts';
import { Dom0 } from './host.ts';
import { SharedGuest, smallGuest } from './shared-guest.ts';

const NAME = 'e2e-deb';
/** All files, except those of guests, logs, caches and package databases. */
const LIST =
  "find / -xdev \\( -path /lab -o -path /root -o -path /tmp -o -path /var/log -o -path /var/cache -o -path '/var/lib/apt' -o -path '/var/lib/dpkg' -o -path '/var/lib/xen/userdata*' \\) -prune -o -print | sort";

const wanted = process.env['XLSNAP_LAB_DEB'] === '1';
if (!wanted) {
  console.log(
    'skipped: the Debian package in the lab; XLSNAP_LAB_DEB=1 installs, uses and purges it, in ten minutes',
  );
}

const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-deb-test-'));
let dom0: Dom0;
beforeAll(async () => {
  if (wanted) dom0 = await Dom0.open();
});
afterAll(async () => {
  rmSync(scratch, { recursive: true, force: true });
  await dom0?.close();
});

const guest = new SharedGuest(
  smallGuest(NAME, { memoryMiB: 96, disks: [{ vdev: 'xvda', format: 'qcow2', sizeMiB: 16 }] }),
  () => dom0,
);

async function run(command: string): Promise<string> {
  const { stdout } = await dom0.lab.run(command, { timeoutMs: 300_000 });
  return stdout;
}

/** Runs a command and prints it with its output, as a transcript. */
async function shown(command: string): Promise<string> {
  const stdout = await run(command);
  console.log(`# ${command}\n${stdout}`);
  return stdout;
}

it.runIf(wanted)('apt installs it, it works, and a purge leaves nothing but the snapshots', async () => {
  const deb = buildDeb(scratch, { built: true });
  await guest.steadily(async () => {
    // What Dom0.open has installed from the tarball, and what an earlier attempt has left.
    await run('apt-get -q -y purge xlsnap; rm -rf /opt/xlsnap /usr/bin/xlsnap /var/lib/xen/snapshots');
    await run('mkdir -p /etc/systemd/system/timers.target.wants /var/lib/systemd/timers /usr/local/sbin');
    const before = await run(LIST);

    await dom0.lab.copyIn(deb, '/root/xlsnap.deb');
    await shown('. /etc/os-release; echo $PRETTY_NAME; xl info xen_version; node --version');
    await shown('apt-get -q -y install /root/xlsnap.deb 2>/dev/null | tail -n 4');
    expect(await run('command -v npm || true')).toBe('');
    expect(await shown('xlsnap --version')).toMatch(/^\d+\.\d+\.\d+\n$/);

    const report = await dom0.result(`doctor ${NAME}`);
    expect(report).toMatchObject({ ok: true, domains: [{ domain: NAME, possible: true, live: true }] });
    await shown(`xlsnap doctor ${NAME}`);
    await shown(`xlsnap snapshot-create ${NAME} --name stopped 2>&1`);
    await shown(`xlsnap snapshot-create ${NAME} --name running --live 2>&1`);
    await shown(`xlsnap snapshot-list ${NAME}`);
    for (const name of ['stopped', 'running']) {
      await dom0.lab.waitForTicks(NAME, 3);
      await shown(`xlsnap snapshot-revert ${NAME} ${name} 2>&1`);
      await dom0.lab.waitForTicks(NAME, 3);
      expect((await dom0.lab.guestReport(NAME)).complaints).toEqual([]);
    }

    await run('xlsnap install-xl-wrapper && test -e /usr/local/sbin/xl');
    // As systemd leaves them for a timer that is enabled and has run.
    await run(
      'ln -s /usr/lib/systemd/system/xlsnap-nightly@.timer /etc/systemd/system/timers.target.wants/xlsnap-nightly@g1.timer',
    );
    await run('touch /var/lib/systemd/timers/stamp-xlsnap-nightly@g1.timer');
    await shown('apt-get -q -y purge xlsnap 2>/dev/null | tail -n 4');
    const snapshots = '/var/lib/xen/snapshots';
    const left = (await run(LIST)).split('\n').filter((path) => !path.startsWith(snapshots));
    expect(left.join('\n')).toBe(before);
    expect(await shown(`ls ${snapshots}/*`)).toMatch(/^running\.save\n.*^stopped\.save$/ms);
    expect(await run('ls -A /run | grep xlsnap || true')).toBe('');
  });
});
