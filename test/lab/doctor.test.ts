/** What `xlsnap doctor` reports on real Xen, and the wrapper around the real xl. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { EXIT } from '../../src/core/errors.ts';
import { Dom0 } from './host.ts';
import { SharedGuest, smallGuest } from './shared-guest.ts';

const NAME = 'e2e-doc';

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

const guest = new SharedGuest(smallGuest(NAME), () => dom0);

it('all checks pass, and a raw disk needs an overlay', () =>
  guest.steadily(async () => {
    const { code, stdout, stderr } = await dom0.xlsnap(`doctor ${NAME} --json`);
    expect({ code, stderr }, stdout).toEqual({ code: EXIT.ok, stderr: '' });
    const report = JSON.parse(stdout) as Record<string, unknown>;
    expect(report).toMatchObject({
      ok: true,
      domains: [
        {
          domain: NAME,
          type: 'pvh',
          state: 'running',
          possible: true,
          by_default: false,
          live: true,
          disks: [
            { vdev: 'xvda', format: 'qcow2', internal: true, external: true },
            { vdev: 'xvdb', format: 'raw', internal: false, external: true },
          ],
          // Linux announces that it can suspend.
          warnings: [],
        },
      ],
    });
    const version = (await dom0.lab.run("xl info | sed -n 's/^xen_version *: //p'")).stdout.trim();
    for (const name of ['xen', 'xl', 'dom0']) {
      expect(report['checks']).toContainEqual(expect.objectContaining({ name, status: 'ok', version }));
    }
    // It was not even paused.
    await guest.expectGoesOn();
  }));

it('a missing domain gives exit code 5', async () => {
  const { code, stdout } = await dom0.xlsnap('doctor nobody');
  expect(stdout).toContain('there is no domain nobody');
  expect(code).toBe(EXIT.preflight);
});

it('the wrapper passes two commands to xlsnap, and all others to the real xl', async () => {
  const run = (command: string) => dom0.lab.run(command, { check: false, timeoutMs: 300_000 });
  await run('mkdir -p /usr/local/sbin');
  const before = await run('xl list; xl domid nobody; xl nonsense; xl');
  expect((await dom0.xlsnap('install-xl-wrapper')).code).toBe(0);
  try {
    const path = 'PATH=/usr/local/sbin:$PATH';
    expect((await run(`${path} command -v xl`)).stdout).toBe('/usr/local/sbin/xl\n');
    const refused = await run(`${path} xl snapshot-create nobody`);
    expect(refused.code).toBe(EXIT.domain);
    expect(refused.stderr).toContain('there is no domain nobody');
    const after = await run(
      `export ${path}; xl list | sed 's/ [0-9.]*$//'; xl domid nobody; xl nonsense; xl`,
    );
    expect(after.code).toBe(before.code);
    expect(after.stderr).toBe(before.stderr);
    expect(after.stdout.split('\n').length).toBe(before.stdout.split('\n').length);
    // xlsnap itself finds the wrapper first now.
    expect((await run(`${path} xlsnap doctor`)).stdout).toContain('/usr/local/sbin/xl, the xlsnap wrapper');
  } finally {
    expect((await dom0.xlsnap('remove-xl-wrapper')).code).toBe(0);
  }
  expect((await run('ls /usr/local/sbin')).stdout).toBe('');
});
