/** The text that `xlsnap bench` prints. */
import { benchCautions, earlierFindings, pathFindings, ratio } from '../bench/findings.ts';
import type { Summary } from '../bench/statistics.ts';
import type { BenchResult, PathResult } from '../bench/types.ts';
import { shellQuote } from '../core/shell-quote.ts';
import { formatBytes, formatSeconds, plural, table, tableOrBlocks, widthOf, wrapText } from './text.ts';

/**
 * What `bench` prints: two tables, of times and of resources.
 * @param columns of the terminal; where the times do not fit with their minima and maxima, they are medians only
 */
export function benchResultText(
  result: BenchResult,
  report: string | undefined,
  columns: number | undefined,
): string {
  const { domain, type, memoryBytes, rounds, xen, machine, paths, failures } = result;
  const { governor, storage } = machine;
  const full = timesTable(paths, spread);
  const fits = columns === undefined || table(full).every((line) => widthOf(line) <= columns);
  const figures = fits ? 'medians (minimum to maximum)' : 'medians';
  const wrapped = (lines: readonly string[]): readonly string[] =>
    lines.map((line) => wrapText(line, columns));
  return [
    ...wrapped([
      `${domain}, ${type}, ${formatBytes(memoryBytes)}, on Xen ${xen.major}.${xen.minor}, ${plural(machine.cpus, 'processor')}${governor === undefined ? '' : ` (${governor})`}, ${machine.fileSystem}${storage === undefined ? '' : `, ${storage}`}`,
      `${plural(rounds, 'round')}: ${figures}`,
    ]),
    ...tableOrBlocks(fits ? full : timesTable(paths, median), columns),
    '',
    ...tableOrBlocks(
      [
        ['path', 'CPU s', 'to xl', 'MiB/s', 'on disk', 'written', 'peak memory'],
        ...paths.map((path) => resources(path, memoryBytes)),
      ],
      columns,
    ),
    '',
    ...wrapped([
      ...pathFindings(result),
      ...earlierFindings(result),
      ...benchCautions(result).map((text) => `Caution: ${text}`),
      ...failures.map(({ path, round, message }) => `path ${path} failed in round ${round}: ${message}`),
    ]),
    ...(report === undefined ? [] : [`Report: ${shellQuote(report)}`]),
  ].join('\n');
}

type Format = (summary: Summary | undefined, format: (value: number) => string) => string;

function timesTable(paths: readonly PathResult[], show: Format): readonly (readonly string[])[] {
  return [
    ['path', 'seconds', 'to xl', 'guest stopped'],
    ...paths.map((path) => [
      path.name,
      show(path.wallSeconds, (seconds) => seconds.toFixed(2)),
      path.baseline === path.name ? '' : show(path.wallRatio, ratio),
      // xlsnap's own figures are more precise than what can be seen from outside.
      show(path.downtimeSeconds ?? path.stopSeconds, formatSeconds),
    ]),
  ];
}

function resources(path: PathResult, memoryBytes: number): readonly string[] {
  return [
    path.name,
    median(path.cpuSeconds, (seconds) => seconds.toFixed(2)),
    path.baseline === path.name ? '' : median(path.cpuRatio, ratio),
    median(path.wallSeconds, (seconds) => String(Math.round(memoryBytes / 2 ** 20 / seconds))),
    median(path.allocatedBytes, formatBytes),
    path.writtenBytes === undefined ? '-' : formatBytes(path.writtenBytes),
    median(path.peakBytes, formatBytes),
  ];
}

function median(summary: Summary | undefined, format: (value: number) => string): string {
  return summary === undefined ? '-' : format(summary.median);
}

function spread(summary: Summary | undefined, format: (value: number) => string): string {
  if (summary === undefined) return '-';
  return `${format(summary.median)} (${format(summary.min)} to ${format(summary.max)})`;
}
