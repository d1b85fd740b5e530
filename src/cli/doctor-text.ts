/** The text that `xlsnap doctor` prints. */
import type { Problem } from '../core/problem.ts';
import type { DiskExamination, DomainExamination } from '../snapshot/create/examine.ts';

import type { DoctorReport } from '../toolstack/doctor/doctor.ts';
import type { HostCheck } from '../toolstack/doctor/host-checks.ts';
import { localTime, printable, wrapText } from './text.ts';

export interface DoctorLayout {
  /** Width of the terminal; without one, lines are not broken. */
  readonly columns: number | undefined;
  readonly colour: boolean;
}

/** Names of the checks as the report shows them. */
const TITLES: Readonly<Record<string, string>> = {
  node: 'Node',
  root: 'root',
  dom0: 'dom0',
  'xen-libraries': 'Xen libraries',
  xen: 'Xen',
  qemu: 'QEMU',
  'snapshot-directory': 'snapshots',
  'lock-directory': 'locks',
  domains: 'the domains',
};

const LABELS = { ok: 'ok', warning: 'warning', failed: 'FAILED' } as const;
const COLOURS = { ok: '\x1b[32m', warning: '\x1b[33m', failed: '\x1b[31m' } as const;

/** The report of `xlsnap doctor` for people. */
export function doctorText(report: DoctorReport, layout: DoctorLayout): string {
  const rows = report.checks.flatMap((check) => checkRows(check));
  for (const domain of report.domains) rows.push(...domainRows(domain));
  rows.push(...snapshotRows(report.snapshots));
  rows.push({ indent: 0, text: summary(report) });
  return rows.map((row) => layOut(row, layout)).join('\n');
}

/** A line: what it is about in a column of its own, then text that may be broken. */
interface Row {
  readonly status?: HostCheck['status'];
  readonly indent: number;
  readonly text: string;
}

/** Width of the column with the status, and a space. */
const STATUS_WIDTH = 9;

function layOut({ status, indent, text }: Row, { columns, colour }: DoctorLayout): string {
  const label = status === undefined ? '' : LABELS[status];
  const left = status === undefined ? ' '.repeat(indent) : label.padEnd(STATUS_WIDTH);
  const shown = wrapText(left + printable(text).replaceAll('\n', ' '), columns, left.length);
  return colour && status !== undefined
    ? `${COLOURS[status]}${label}\x1b[0m${shown.slice(label.length)}`
    : shown;
}

function checkRows({ name, status, version, message, hint }: HostCheck): Row[] {
  const title = TITLES[name] ?? name;
  const row = {
    status,
    indent: 0,
    text: `${title}${version === undefined ? '' : ` ${version}`}: ${message}`,
  };
  return [row, ...hints(hint)];
}

function domainRows(report: DomainExamination): Row[] {
  const { domain, domid, type, state, qemu, disks, obstacles, liveObstacles, warnings } = report;
  const facts = [domid === undefined ? [] : `domid ${domid}`, type ?? [], state ?? []].flat();
  if (qemu !== undefined) facts.push(`QEMU ${qemu}`);
  const name = `domain ${domain}${facts.length === 0 ? '' : ` (${facts.join(', ')})`}`;
  return [
    { status: report.possible ? 'ok' : 'failed', indent: 0, text: `${name}: ${verdict(report)}` },
    ...obstacles.flatMap(obstacleRows),
    ...(report.possible ? liveObstacles.flatMap(obstacleRows) : []),
    ...disks.flatMap(diskRows),
    ...warnings.map((text) => ({ status: 'warning', indent: 0, text: `domain ${domain}: ${text}` }) as const),
  ];
}

/** The newest snapshots of the domain. */
function snapshotRows(snapshots: DoctorReport['snapshots']): Row[] {
  if (snapshots === undefined) return [];
  if (snapshots.length === 0) return [{ indent: STATUS_WIDTH, text: 'no snapshots yet' }];
  const rows = snapshots.map(({ name, created, revert }): Row => {
    const how = {
      possible: 'can be reverted to',
      risky: 'a revert is risky',
      impossible: 'cannot be reverted to',
    };
    return { indent: STATUS_WIDTH, text: `snapshot "${name}", ${localTime(created)}: ${how[revert]}` };
  });
  const why = snapshots.some(({ revert }) => revert !== 'possible');
  return why ? [...rows, { indent: STATUS_WIDTH, text: '  next: xlsnap snapshot-list says why' }] : rows;
}

function verdict({ possible, byDefault, live, state }: DomainExamination): string {
  if (!possible) return 'cannot be snapshotted';
  const how = byDefault ? 'can be snapshotted' : 'can be snapshotted with a cfgfile that says how';
  if (state === 'paused') return `${how}; it stays paused`;
  return live ? `${how}, with or without --live` : `${how}, without --live`;
}

function diskRows(disk: DiskExamination): Row[] {
  const { vdev, path, format, volume, internal, external, storage, obstacles } = disk;
  const what = `disk ${vdev}${path === undefined ? '' : ` ${path}`}${format === undefined ? '' : ` (${format})`}`;
  if (!volume)
    return [{ indent: STATUS_WIDTH, text: `${what}: not written to, so not part of the snapshot` }];
  const byQemu = [...(internal ? ['internal'] : []), ...(external ? ['external'] : [])];
  const ways = [
    ...(storage === undefined ? [] : [storage]),
    ...(byQemu.length === 0 ? [] : [`${byQemu.join(' or ')} snapshot`]),
  ];
  const how = ways.length === 0 ? 'cannot be snapshotted' : ways.join(' or ');
  return [{ indent: STATUS_WIDTH, text: `${what}: ${how}` }, ...obstacles.flatMap(obstacleRows)];
}

function obstacleRows({ message, hint }: Problem): Row[] {
  return [{ indent: STATUS_WIDTH, text: `- ${message}` }, ...hints(hint)];
}

function hints(hint: string | undefined): Row[] {
  return hint === undefined ? [] : [{ indent: STATUS_WIDTH, text: `  next: ${hint}` }];
}

function summary({ ok, checks, domains }: DoctorReport): string {
  if (ok) {
    const [first] = domains;
    const which = domains.length === 1 && first !== undefined ? first.domain : 'each domain';
    if (domains.length === 0) return 'All is well. No domain runs.';
    const special = domains.filter(({ byDefault }) => !byDefault).map(({ domain }) => domain);
    return special.length === 0
      ? `All is well: ${which} can be snapshotted.`
      : `All is well, but ${special.join(', ')} ${special.length === 1 ? 'needs' : 'need'} a cfgfile: see above.`;
  }
  const failures = checks.filter(({ status }) => status === 'failed').length;
  const parts: string[] = [];
  if (failures > 0) parts.push(`${failures} of ${checks.length} checks of the host failed`);
  const not = domains.filter(({ possible }) => !possible).map(({ domain }) => domain);
  if (not.length > 0) parts.push(`cannot be snapshotted: ${not.join(', ')}`);
  return `${parts.join('; ')}.`;
}
