/** The text that snapshot-list prints. */
import { describeProblem } from '../core/problem.ts';
import type { DamagedSnapshot, ListedSnapshot, SnapshotList } from '../snapshot/list/list.ts';
import { describeRisk } from '../snapshot/risks.ts';
import { blockLines, formatSize, localTime, table, widthOf, wrapText } from './text.ts';

const HEADINGS = ['DOMAIN', 'NAME', 'CREATED', 'STATE', 'MEMORY', 'OWN', 'DISKS', 'REVERT'] as const;
/** Place of what only a file that shares blocks with others has. */
const OWN = HEADINGS.indexOf('OWN');
const UNKNOWN = '?';

const REVERT = { possible: 'yes', risky: 'risky', impossible: 'no' } as const;

/**
 * A table, newest last, with the reasons below each snapshot that cannot be reverted to as it is. Where it would be wider than
 * the terminal, each snapshot gets lines of its own.
 * @param columns of the terminal; `undefined` if there is none
 */
export function snapshotListText(list: SnapshotList, columns: number | undefined): string {
  const { snapshots, damaged, directories } = list;
  if (snapshots.length === 0 && damaged.length === 0) {
    const none = `No snapshots in ${directories.join(', ')}. For another place: xlsnap snapshot-list --dir DIR`;
    return wrapText(none, columns);
  }
  const isShared = snapshots.some(({ sharedBytes = 0 }) => sharedBytes > 0);
  const shown = (cells: readonly string[]): readonly string[] =>
    isShared ? cells : cells.filter((_, at) => at !== OWN);
  const headings = shown(HEADINGS);
  const rows = [...damaged.map(damagedRow), ...snapshots.map(row)].map(({ cells, reasons }) => ({
    cells: shown(cells),
    reasons,
  }));
  const [head = '', ...aligned] = table([headings, ...rows.map(({ cells }) => cells)], 'left');
  const narrow = columns !== undefined && [head, ...aligned].some((line) => widthOf(line) > columns);
  const lines = narrow ? [] : [head];
  for (const [at, { cells, reasons }] of rows.entries()) {
    const [domain = '', name = '', ...facts] = cells;
    const titles = headings.slice(2).map((heading) => heading.toLowerCase());
    lines.push(...(narrow ? blockLines(`${domain} ${name}`, titles, facts, columns) : [aligned[at] ?? '']));
    for (const reason of reasons) lines.push(wrapText(`  ${reason}`, columns));
  }
  return lines.join('\n');
}

interface Row {
  readonly cells: readonly string[];
  readonly reasons: readonly string[];
}

function row(one: ListedSnapshot): Row {
  const { domain, name, created, state, allocatedBytes, ownBytes, disks, revert, problems, risks } = one;
  const left = problems.some(({ code }) => code === 'OVERLAY_LEFT');
  const memory = allocatedBytes === undefined ? (left ? 'deleted' : 'missing') : formatSize(allocatedBytes);
  const kinds = disks.map(({ vdev, kind }) => `${vdev} ${kind}`).join(', ');
  return {
    cells: [
      domain,
      name,
      localTime(created),
      state,
      memory,
      ownBytes === undefined ? UNKNOWN : formatSize(ownBytes),
      kinds === '' ? 'none' : kinds,
      REVERT[revert],
    ],
    reasons: [...problems.map(describeProblem), ...risks.map(describeRisk)].flatMap((reason) =>
      reason.split('\n'),
    ),
  };
}

function damagedRow({ domain, name, message }: DamagedSnapshot): Row {
  const cells = [domain ?? UNKNOWN, name, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, REVERT.impossible];
  return { cells, reasons: [message] };
}
