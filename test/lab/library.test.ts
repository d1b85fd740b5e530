/** The library with a toolstack of one's own, as in examples/: on real Xen, without any xl. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Dom0 } from './host.ts';

const NAME = 'own-toolstack';
const FOLDER = `/lab/snap-${NAME}`;
const EXAMPLE = '/opt/xlsnap/example';
const root = join(import.meta.dirname, '..', '..');

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

/**
 * Copies the compiled examples next to the installed package, and creates a PATH that has everything but xl.
 */
async function installExample(): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-example-'));
  try {
    const tsc = join(root, 'node_modules', '.bin', 'tsc');
    execFileSync(tsc, ['-p', 'tsconfig.package.json', '--noEmit', 'false', '--outDir', scratch], {
      cwd: root,
    });
    writeFileSync(join(scratch, 'package.json'), '{"type":"module"}');
    await dom0.lab.run(`rm -rf ${EXAMPLE}`);
    await dom0.lab.copyIn(scratch, EXAMPLE);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  await dom0.lab.run(
    'rm -rf /opt/no-xl; mkdir /opt/no-xl; for p in /bin/* /sbin/* /usr/bin/* /usr/sbin/*; do ' +
      'case "$p" in */xl) ;; *) ln -sf "$p" /opt/no-xl/ ;; esac; done',
  );
  const { stdout } = await dom0.lab.run('PATH=/opt/no-xl; command -v node; command -v xl', { check: false });
  expect(stdout.trim()).toBe('/opt/no-xl/node');
}

async function example(command: 'create' | 'revert', cfgfile: string): Promise<Record<string, unknown>> {
  const { stdout } = await dom0.lab.run(
    `PATH=/opt/no-xl; export PATH; node ${EXAMPLE}/examples/main.js ${command} ${NAME} ${cfgfile}`,
    { timeoutMs: 300_000 },
  );
  return JSON.parse(stdout) as Record<string, unknown>;
}

it('takes a snapshot and reverts to it without xl', async () => {
  await dom0.steadily(NAME, async () => {
    await installExample();
    await dom0.lab.removeGuest(NAME);
    await dom0.lab.run(`rm -rf ${FOLDER}; mkdir -p ${FOLDER}`);
    const guest = await dom0.lab.startGuest({
      type: 'pvh',
      name: NAME,
      memoryMiB: 84,
      disks: [
        { vdev: 'xvda', format: 'qcow2', sizeMiB: 32 },
        { vdev: 'xvdb', format: 'qcow2', sizeMiB: 32 },
      ],
    });
    await dom0.lab.waitForTicks(NAME, 5);
    const overlay = `${FOLDER}/xvdb.qcow2`;
    await dom0.lab.run(`cat >${FOLDER}/snap.cfg`, {
      input: `name="own"\nmemory_path="${FOLDER}/own.save"\ndisks=[',,xvda', '${overlay},qcow2,xvdb']\n`,
    });
    expect(await example('create', `${FOLDER}/snap.cfg`)).toMatchObject({
      plan: { name: 'own', state: 'running', uncovered: [] },
    });
    const instant = (await dom0.memoryCounter(`${FOLDER}/own.save`)).done;
    const before = await dom0.lab.waitForTicks(NAME, 10);
    expect(before.n).toBeGreaterThan(instant + 5);

    const told = (await dom0.lab.guestReport(NAME)).ticks.length;
    const result = await example('revert', `${FOLDER}/own.save.cfg`);
    expect(result['domid']).toBeGreaterThan(guest.domid);
    await dom0.lab.waitForTicks(NAME, 10);
    const report = await dom0.lab.guestReport(NAME);
    // No boot, and the disks are those of the memory's instant.
    expect(report.up).toHaveLength(1);
    expect(report.complaints).toEqual([]);
    const ticks = report.ticks.slice(told);
    const back = ticks.find((tick, at) => tick.n < (ticks[at - 1]?.n ?? before.n));
    expect(back?.n).toBeGreaterThanOrEqual(instant);
    expect(back?.n).toBeLessThan(instant + 5);
    // What the library left for xl is right: the running domain uses the overlay.
    expect(await dom0.configuration(NAME)).toContain(`"pdev_path":"${overlay}"`);
  });
  await dom0.lab.removeGuest(NAME);
});
