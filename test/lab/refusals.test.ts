/** What cannot succeed on real Xen: a clear error, the guest unharmed, nothing left behind. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT } from '../../src/core/errors.ts';
import { Dom0, type Said } from './host.ts';
import { SharedGuest, smallGuest } from './shared-guest.ts';

const NAME = 'e2e-no';

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

const guest = new SharedGuest(smallGuest(NAME, { extraCfg: ['on_poweroff = "preserve"'] }), () => dom0);
const FOLDER = guest.folder;
const steadily = (body: () => Promise<void>) => () => guest.steadily(body);

/** Writes a cfgfile and runs a create with it. */
async function create(cfg: string, args = ''): Promise<Said> {
  return await dom0.xlsnap(`snapshot-create ${NAME} ${await guest.configure(cfg)} -q ${args}`);
}

/** Of what fakes show as well, only what depends on Xen or on a real file system always runs. */
const all = process.env['XLSNAP_LAB_REFUSALS'] === '1';
if (!all)
  console.log('skipped: plain refusals in the lab; XLSNAP_LAB_REFUSALS=1 runs them, in three minutes');

const memory = (folder = FOLDER): string => `memory_path="${folder}/s.save"\n`;

async function expectUnharmed(folder = FOLDER): Promise<void> {
  await guest.expectGoesOn();
  await guest.expectNothingLeft(folder);
}

describe('a create that cannot succeed', () => {
  it.runIf(all).each([
    ['a raw disk asked for an internal snapshot', `${memory()}disks=[',,xvdb']\n`, /raw.*external/s],
    ['a disk that is not there', `${memory()}disks=[',,xvdz']\n`, /xvdz.*xvda/s],
    ['a directory that is a file', 'memory_path="/etc/hostname/s.save"\ndisks=[]\n', /hostname/],
  ])('%s', (_what, cfg, message) =>
    steadily(async () => {
      const said = await create(cfg);
      expect(said.stderr).toMatch(message);
      expect(said.code).toBe(EXIT.preflight);
      await expectUnharmed();
    })(),
  );

  it.runIf(all)(
    'is refused if a target file exists, and the file stays unchanged',
    steadily(async () => {
      await dom0.lab.run(`echo precious >${FOLDER}/s.save`);
      const { code, stderr } = await create(`${memory()}disks=[]\n`);
      expect(stderr).toContain(`${FOLDER}/s.save already exists`);
      expect(code).toBe(EXIT.preflight);
      expect((await dom0.lab.run(`cat ${FOLDER}/s.save; rm ${FOLDER}/s.save`)).stdout).toBe('precious\n');
      await expectUnharmed();
    }),
  );

  it.runIf(all)(
    'is refused if the domain does not exist',
    steadily(async () => {
      const { code, stderr } = await dom0.xlsnap('snapshot-create nobody');
      expect(stderr).toContain('no domain nobody');
      expect(code).toBe(EXIT.domain);
    }),
  );

  it(
    'is refused if the QMP socket is missing',
    steadily(async () => {
      const sockets = `/var/run/xen/qmp-libxenstat-${guest.domid} /var/run/xen/qmp-libxl-${guest.domid}`;
      await dom0.lab.run(`mkdir /var/run/xen/away; mv ${sockets} /var/run/xen/away`);
      const { code, stderr } = await create(`${memory()}disks=[',,xvda']\n`);
      await dom0.lab.run('mv /var/run/xen/away/* /var/run/xen; rmdir /var/run/xen/away');
      expect(stderr).toMatch(/QEMU/);
      expect(code).toBe(EXIT.preflight);
      await expectUnharmed();
    }),
  );

  it.runIf(all)(
    'is refused before the guest is stopped if the file system is too small',
    steadily(async () => {
      await dom0.lab.run(`mkdir -p ${FOLDER}/small; mount -t tmpfs -o size=20M small ${FOLDER}/small`);
      const { code, stderr } = await create(`${memory(`${FOLDER}/small`)}disks=[]\n`);
      expect(stderr).toMatch(/MiB free/);
      expect(code).toBe(EXIT.preflight);
      await expectUnharmed(`${FOLDER}/small`);
      await dom0.lab.run(`umount ${FOLDER}/small; rmdir ${FOLDER}/small`);
    }),
  );

  it(
    'a create is undone completely if a file system becomes full while memory is written',
    steadily(async () => {
      const folder = `${FOLDER}/full`;
      await dom0.lab.run(`mkdir -p ${folder}; mount -t tmpfs -o size=110M full ${folder}`);
      await dom0.lab.run(
        `(until [ -e ${folder}/s.save.partial ]; do sleep 0.05; done; fallocate -l 100M ${FOLDER}/full/filler) >/dev/null 2>&1 &`,
      );
      const { code, stderr } = await create(`name="full"\n${memory(folder)}disks=[',,xvda']\n`);
      expect(stderr).toMatch(/cannot write.*ENOSPC|no space/is);
      expect(stderr).toContain('undone');
      expect(code).toBe(EXIT.output);
      await dom0.lab.run(`rm ${folder}/filler`);
      await expectUnharmed(folder);
      await dom0.lab.run(`umount ${folder}; rmdir ${folder}`);
    }),
  );

  it(
    'is refused if the tag exists already',
    steadily(async () => {
      const first = await create(`name="t1"\nmemory_path="${FOLDER}/t1.save"\ndisks=[',,xvda']\n`);
      expect(first.stderr).toContain('xvdb');
      expect(first.code).toBe(EXIT.ok);
      const { code, stderr } = await create(`name="t1"\nmemory_path="${FOLDER}/t2.save"\ndisks=[',,xvda']\n`);
      expect(stderr).toMatch(/already has a snapshot "t1"/);
      expect(code).toBe(EXIT.preflight);
      expect((await dom0.lab.run(`ls ${FOLDER}`)).stdout).not.toContain('t2');
      await dom0.lab.waitForTicks(NAME, 3);
      // The snapshot leaves the raw xvdb out, so a revert to it is a risk that must be accepted.
      const revert = await dom0.xlsnap(`snapshot-revert ${NAME} ${FOLDER}/t1.save.cfg`);
      expect(revert.stderr).toMatch(/xvdb.*--force/s);
      expect(revert.code).toBe(EXIT.risk);
      await dom0.lab.waitForTicks(NAME, 3);
    }),
  );
});

describe('a paused guest', () => {
  it(
    'stays paused, and so it does after a revert',
    steadily(async () => {
      await dom0.lab.run(`xl pause ${NAME}`);
      const before = await dom0.lab.counter(NAME);
      const { code, stdout } = await create(`name="p1"\nmemory_path="${FOLDER}/p1.save"\ndisks=[',,xvda']\n`);
      expect(code).toBe(EXIT.ok);
      expect(stdout).toContain('paused');
      expect((await dom0.lab.domains()).get(NAME)?.flags).toContain('p');
      // It ran only as long as it took to suspend.
      const after = await dom0.lab.counter(NAME);
      expect(after?.n).toBeLessThan((before?.n ?? 0) + 20);

      await dom0.result(`snapshot-revert ${NAME} ${FOLDER}/p1.save.cfg --force`);
      expect((await dom0.lab.domains()).get(NAME)?.flags).toContain('p');
    }),
  );
});

describe('a guest that cannot suspend', () => {
  it(
    'a guest that has never run is not booted, and any other is left as it was after the time-out',
    steadily(async () => {
      const name = 'e2e-deaf';
      await dom0.lab.removeGuest(name);
      await dom0.lab.run(`mkdir -p /lab/guests/${name}; cat >/lab/guests/${name}/deaf.cfg`, {
        // A few seconds after it was unpaused, its kernel has not reached the drivers that answer.
        input: `name="${name}"\ntype="pvh"\nmemory=84\nvcpus=1\nkernel="/lab/vmlinux"\ncmdline="panic=0"\n`,
      });
      await dom0.lab.run(`xl create -p /lab/guests/${name}/deaf.cfg`, { timeoutMs: 120_000 });
      const never = await dom0.xlsnap(`snapshot-create ${name}`);
      expect(never.stderr).toMatch(/has not booted.*xl unpause/s);
      expect(never.code).toBe(EXIT.preflight);
      await dom0.lab.run(`xl unpause ${name}; sleep 2; xl pause ${name}`);
      const { code, stderr } = await dom0.xlsnap(`snapshot-create ${name} --timeout 1`);
      expect(stderr).toMatch(/did not respond to the request to suspend within 1 s/);
      expect(code).toBe(EXIT.suspend);
      const { stdout } = await dom0.lab.run(
        `xl list ${name}; xenstore-read /local/domain/$(xl domid ${name})/control/shutdown; ls -A /var/lib/xen/snapshots`,
        { check: false },
      );
      expect(stdout).toMatch(/ --p--- /);
      expect(stdout).not.toMatch(/suspend|partial/);
      await dom0.lab.removeGuest(name);
    }),
  );
});

describe('a domain that has shut down', () => {
  it(
    'is refused',
    steadily(async () => {
      await dom0.lab.run(`xl shutdown ${NAME}`);
      await expect
        .poll(async () => (await dom0.lab.domains()).get(NAME)?.flags, { timeout: 120_000, interval: 1000 })
        .toContain('s');
      const { code, stderr } = await dom0.xlsnap(`snapshot-create ${NAME}`);
      expect(stderr).toMatch(/shut down \(poweroff\)/);
      expect(code).toBe(EXIT.domain);
    }),
  );
});
