/**
 * What happens on an ordinary day, on real Xen: another domain has the image, the guest reboots while a
 * revert checks, a base was written to, snapshots are on top of each other, xl saves in between.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT } from '../../src/core/errors.ts';
import { Dom0, errorOf, type Said } from './host.ts';
import { SharedGuest, smallGuest } from './shared-guest.ts';

const wanted = process.env['XLSNAP_LAB_DAY'] === '1';
if (!wanted)
  console.log('skipped: an ordinary day in the lab; XLSNAP_LAB_DAY=1 runs its 9 cases, in 25 minutes');

let dom0: Dom0;
beforeAll(async () => {
  if (wanted) dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

const guest = new SharedGuest(smallGuest('e2e-day', { onReboot: 'restart' }), () => dom0);
const NAME = guest.name;
const CFG = `/lab/guests/${NAME}/${NAME}.cfg`;
const IMAGE = `/lab/guests/${NAME}/xvda.qcow2`;

/** Returns a cfgfile for a snapshot that puts an overlay of this name on disk xvdb. */
async function create(name: string, args = ''): Promise<void> {
  const text = `name="${name}"\nmemory_path="${guest.folder}/${name}.save"\ndisks=[',,xvda', '${guest.folder}/${name}.qcow2,qcow2,xvdb']\n`;
  await dom0.result(`snapshot-create ${NAME} ${await guest.configure(text)} ${args}`);
}

async function revert(name: string, args = ''): Promise<Said> {
  return await dom0.xlsnap(`snapshot-revert ${NAME} ${guest.folder}/${name}.save.cfg --json ${args}`);
}

/** Returns the names of the risks for which a revert was refused. */
function risksOf(said: Said): readonly unknown[] {
  const error = errorOf(said);
  expect(error.code).toBe('RISKY');
  expect(said.code).toBe(EXIT.risk);
  const risks = error.data?.['risks'] as readonly { readonly risk: string }[] | undefined;
  return (risks ?? []).map(({ risk }) => risk);
}

/** xl does not wait until a domain that it destroys no longer exists. */
async function destroy(name: string): Promise<void> {
  await dom0.lab.run(`xl destroy ${name}; while xl domid ${name} 2>/dev/null; do sleep 0.2; done`, {
    timeoutMs: 120_000,
  });
  guest.discard();
}

async function expectTicks(name: string): Promise<void> {
  await dom0.lab.waitForTicks(name, 5);
  expect((await dom0.lab.guestReport(name)).complaints).toEqual([]);
}

/** Runs a case with a guest of its own: what the previous one did to its images is undone. */
const steadily = (body: () => Promise<void>) => () =>
  guest.steadily(async () => {
    try {
      await body();
    } finally {
      guest.discard();
    }
  });

describe.runIf(wanted)('an ordinary day', () => {
  it(
    'a revert is refused, even with --force, if another running domain has the image; that domain keeps running',
    steadily(async () => {
      await create('s1');
      await destroy(NAME);
      const other = 'e2e-other';
      await dom0.lab.removeGuest(other);
      await dom0.lab.run(
        `mkdir -p /lab/guests/${other}; sed 's/^name = .*/name = "${other}"/' ${CFG} >/lab/guests/${other}/${other}.cfg`,
      );
      await dom0.lab.run(`xl create /lab/guests/${other}/${other}.cfg`, { timeoutMs: 180_000 });
      await dom0.lab.waitForTicks(other, 5, 240_000);
      for (const args of ['', '--force']) {
        const said = await revert('s1', args);
        expect(JSON.stringify(errorOf(said))).toMatch(/IMAGE_IN_USE.*e2e-other|e2e-other.*IMAGE_IN_USE/);
        expect(said.code).toBe(EXIT.preflight);
      }
      await expectTicks(other);
      await destroy(other);
      await dom0.lab.run(`qemu-img check ${IMAGE}`);
      await dom0.lab.removeGuest(other);
    }),
  );

  it(
    'a revert is refused, and nothing is touched, if the guest reboots while it checks',
    steadily(async () => {
      await create('s1');
      const before = guest.domid;
      const said = await dom0.during(
        `snapshot-revert ${NAME} ${guest.folder}/s1.save.cfg`,
        'check',
        `kill -STOP $pid; xl reboot ${NAME}; until [ "$(xl domid ${NAME} || echo 0)" -gt ${before} ]; do sleep 0.5; done; kill -CONT $pid`,
      );
      // xl has given the new life its name before its configuration.
      expect(errorOf(said).code).toMatch(/^(?:DOMAIN_CHANGED|DOMAIN_STARTING)$/);
      expect(said.code).toBe(EXIT.domain);
      await expectTicks(NAME);
      await destroy(NAME);
      await dom0.lab.run(`qemu-img check ${IMAGE}`);
      expect((await dom0.lab.run(`qemu-img snapshot -l ${IMAGE}`)).stdout).not.toMatch(/before-/);
    }),
  );

  it(
    'a base that was written to is a risk with a name',
    steadily(async () => {
      await create('s1');
      await destroy(NAME);
      // From its file, which names the base.
      await dom0.lab.run(`xl create ${CFG}`, { timeoutMs: 180_000 });
      await dom0.lab.waitForTicks(NAME, 5, 240_000);
      await destroy(NAME);
      expect(risksOf(await revert('s1'))).toContain('base-written');
    }),
  );

  it(
    'a later snapshot on the overlay is a risk with a name, with the domain down',
    steadily(async () => {
      await create('s1');
      await dom0.lab.waitForTicks(NAME, 3);
      await create('s2');
      await destroy(NAME);
      const { stdout: before } = await dom0.lab.run(`md5sum ${guest.folder}/s1.qcow2`);
      expect(risksOf(await revert('s1'))).toContain('later-snapshot');
      expect((await dom0.lab.run(`md5sum ${guest.folder}/s1.qcow2`)).stdout).toBe(before);
      const back = await revert('s2');
      expect(back).toMatchObject({ code: EXIT.ok });
      await expectTicks(NAME);
    }),
  );

  it(
    'a guest from which memory was taken is snapshotted live, and reverted',
    steadily(async () => {
      await dom0.lab.run(`xl mem-set ${NAME} 72`);
      await create('s1', '--live');
      await expectTicks(NAME);
      const back = await revert('s1');
      expect(back).toMatchObject({ code: EXIT.ok });
      await expectTicks(NAME);
    }),
  );

  it(
    'memory is taken from the guest and given back again and again while it is snapshotted live, and it is reverted',
    steadily(async () => {
      await dom0.lab.run(
        `(n=0; while [ $n -lt 60 ]; do xl mem-set ${NAME} 72; sleep 0.5; xl mem-set ${NAME} 90; sleep 0.5; n=$((n+1)); done) >/dev/null 2>&1 & echo $! >/tmp/balloon.pid`,
      );
      try {
        await create('s1', '--live');
      } finally {
        await dom0.lab.run('kill $(cat /tmp/balloon.pid)');
      }
      await expectTicks(NAME);
      await dom0.verifyByXen(`${guest.folder}/s1.save`);
      expect(await revert('s1')).toMatchObject({ code: EXIT.ok });
      await expectTicks(NAME);
    }),
  );

  it(
    'may have no more memory than it was given last: it is snapshotted, and reverted',
    steadily(async () => {
      await dom0.lab.run(`xl mem-set ${NAME} 72 && xl mem-max ${NAME} 72`);
      await create('s1');
      await expectTicks(NAME);
      expect(await revert('s1')).toMatchObject({ code: EXIT.ok });
      await expectTicks(NAME);
    }),
  );
});

describe.runIf(wanted)('an HVM guest', () => {
  const hvm = new SharedGuest(
    smallGuest('e2e-hday', { type: 'hvm', disks: [{ vdev: 'xvda', format: 'qcow2', sizeMiB: 16 }] }),
    () => dom0,
  );

  it('keeps running, and its QEMU too, when xl saves it during a live create', () =>
    hvm.steadily(async () => {
      const cfg = await hvm.configure(`name="s1"\nmemory_path="${hvm.folder}/s1.save"\ndisks=[',,xvda']\n`);
      const said = await dom0.during(
        `snapshot-create ${hvm.name} ${cfg} --live`,
        'precopy',
        `until grep -q '"phase":"precopy","done"' err; do sleep 0.02; done; sleep 1; kill -STOP $pid; xl save -c ${hvm.name} ${hvm.folder}/xl.save; acted=$?; kill -CONT $pid; exit $acted`,
      );
      expect(said.action).toMatchObject({ code: 0 });
      // Restarted with a whole copy, or given up with everything undone: both leave the guest alone.
      if (said.code !== 0) expect(errorOf(said)).toMatchObject({ code: 'DIRTY_LOG_LOST' });
      else await dom0.verifyByXen(`${hvm.folder}/s1.save`);
      await dom0.lab.run(`pgrep -f 'xen-domid ${hvm.domid} '`);
      await hvm.expectGoesOn();
    }));
});

describe.runIf(wanted)('a guest that still waits for part of its memory', () => {
  it('is refused, and keeps running', async () => {
    const name = 'e2e-pod';
    await dom0.steadily(name, async () => {
      await dom0.lab.removeGuest(name);
      await dom0.lab.run(`mkdir -p /lab/guests/${name}; cat >/lab/guests/${name}/pod.cfg`, {
        // Half of what it believes to have, and no balloon driver yet.
        input: `name="${name}"\ntype="hvm"\nmemory=64\nmaxmem=128\nvcpus=1\nkernel="/lab/vmlinuz"\nramdisk="/lab/guest.img"\nvnc=0\nvga="none"\n`,
      });
      await dom0.lab.run(`xl create -p /lab/guests/${name}/pod.cfg`, { timeoutMs: 120_000 });
      for (const args of ['', '--live']) {
        const said = await dom0.xlsnap(`snapshot-create ${name} --json ${args}`);
        expect(JSON.stringify(errorOf(said))).toContain('POPULATE_ON_DEMAND');
        expect(said.code).toBe(EXIT.preflight);
      }
      expect((await dom0.lab.domains()).get(name)?.flags).not.toMatch(/[scd]/);
      await dom0.lab.removeGuest(name);
    });
  });
});
