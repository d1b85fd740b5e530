import { stripVTControlCharacters } from 'node:util';
import { describe, expect, test } from 'vitest';
import { EXIT } from '../../../src/core/errors.ts';
import type { DoctorReport, DomainReport } from '../../../src/toolstack/doctor/doctor.ts';
import { doctorReport, documentedKeys, snapshotList, xlsnap } from './support.ts';

const [sound] = doctorReport.domains;
if (sound === undefined) throw new Error('the sample has no domain');

const refused: DomainReport = {
  ...sound,
  domain: 'guest2',
  possible: false,
  byDefault: false,
  live: false,
  disks: [
    {
      vdev: 'xvdb',
      path: '/dev/vg0/guest2',
      format: 'raw',
      volume: true,
      internal: false,
      external: false,
      obstacles: [
        {
          code: 'DISK_BACKEND',
          message: 'disk xvdb on /dev/vg0/guest2 is served by the kernel (blkback), which cannot snapshot it',
          hint: 'only disks served by QEMU can be snapshotted: set backendtype=qdisk in its disk= line',
        },
      ],
    },
  ],
};
const failing: DoctorReport = {
  ok: false,
  checks: [
    ...doctorReport.checks,
    {
      name: 'xen',
      status: 'failed',
      message: 'cannot open it\x1b[31m',
      hint: 'run it as root in dom0; /dev/xen/privcmd must exist, and the libraries of the running Xen',
    },
  ],
  domains: [refused],
};

describe('doctor', () => {
  test('prints a report in which everything works', async () => {
    const { code, stdout, stderr } = await xlsnap(['doctor']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toBe(
      [
        'ok       Node 20.19.2: /usr/bin/node',
        'ok       locks: /run/xlsnap',
        'ok       domain guest1 (domid 7, pvh, running, QEMU 10.0.13): can be snapshotted, with or without --live',
        '         disk xvda /d/a.qcow2 (qcow2): internal or external snapshot',
        'All is well: guest1 can be snapshotted.',
        '',
      ].join('\n'),
    );
  });

  test('ends with the newest snapshots of a domain', async () => {
    const report = { ...doctorReport, snapshots: snapshotList.snapshots };
    const { stdout } = await xlsnap(['doctor', 'guest1'], { doctor: report });
    const lines = stdout.trimEnd().split('\n').slice(-5);
    expect(lines.map((line) => line.replace(/, 2026[^:]*:..:..:/, ':'))).toEqual([
      '         snapshot "gone": cannot be reverted to',
      '         snapshot "before upgrade": a revert is risky',
      '         snapshot "new": can be reverted to',
      '           next: xlsnap snapshot-list says why',
      'All is well: guest1 can be snapshotted.',
    ]);
    const none = await xlsnap(['doctor', 'guest1'], { doctor: { ...doctorReport, snapshots: [] } });
    expect(none.stdout).toContain('\n         no snapshots yet\n');
  });

  test('says which domains need a cfgfile', async () => {
    const domains = [{ ...sound, byDefault: false }];
    const { code, stdout } = await xlsnap(['doctor'], { doctor: { ...doctorReport, domains } });
    expect(code).toBe(0);
    expect(stdout).toMatch(/\nAll is well, but guest1 needs a cfgfile: see above\.\n$/);
  });

  test('exits with 13, with the report on stdout, if something is missing on the host', async () => {
    const { code, stdout, stderr } = await xlsnap(['doctor'], { doctor: failing });
    expect({ code, stderr }).toEqual({ code: EXIT.environment, stderr: '' });
    expect(stdout).toContain('FAILED   Xen: cannot open it?[31m\n           next: run it as root');
    expect(stdout).toContain(
      'FAILED   domain guest2 (domid 7, pvh, running, QEMU 10.0.13): cannot be snapshotted\n',
    );
    expect(stdout).toMatch(/\n1 of 3 checks of the host failed; cannot be snapshotted: guest2\.\n$/);
  });

  test('exits with 5 if a domain cannot be snapshotted', async () => {
    const { code } = await xlsnap(['doctor'], { doctor: { ...doctorReport, ok: false, domains: [refused] } });
    expect(code).toBe(EXIT.preflight);
  });

  test.each([40, 80])('prints no line that is longer than a terminal of %i columns', async (columns) => {
    const { stdout } = await xlsnap(['doctor'], { doctor: failing, tty: true, columns });
    const lines = stripVTControlCharacters(stdout).split('\n');
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(columns);
    expect(stdout).toContain('\x1b[31mFAILED\x1b[0m   Xen');
  });

  test.each([{ NO_COLOR: '1' }, { TERM: 'dumb' }])('no colours with %o', async (env) => {
    expect((await xlsnap(['doctor'], { tty: true, env })).stdout).not.toContain('\x1b');
  });

  test('prints JSON with the keys of docs/scripting.md, and no others', async () => {
    const report = { ...failing, snapshots: snapshotList.snapshots };
    const { code, stdout } = await xlsnap(['doctor', '--json'], { doctor: report });
    const { message_type, ...message } = JSON.parse(stdout) as Record<string, unknown>;
    expect({ code, message_type }).toEqual({ code: EXIT.environment, message_type: 'doctor_result' });
    expect(documentedKeys('doctor_result')).toEqual(Object.keys(message));
  });
});
