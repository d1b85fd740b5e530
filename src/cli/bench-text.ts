/** The text that `xlsnap bench` prints. */
import type { Summary } from '../bench/statistics.ts';
import type { BenchResult, PathResult } from '../bench/types.ts';
import { shellQuote } from '../core/shell-quote.ts';
import { formatBytes, formatSeconds, table } from './text.ts';

/** What `bench` prints. */
export function benchResultText(result: BenchResult, report: string | undefined): string {
  const { domain, type, memoryBytes, rounds, xen, machine, paths, failures } = result;
  return [
    `${domain}, ${type}, ${formatBytes(memoryBytes)}, on Xen ${xen.major}.${xen.minor}, ${machine.cpus} processors, ` +
      `${machine.fileSystem}: medians of ${rounds} rounds (minimum to maximum)`,
    ...table([
      ['path', 'seconds', 'to xl', 'guest stopped', 'CPU s', 'to xl', 'file', 'on disk', 'peak memory'],
      ...paths.map(row),
    ]),
    ...failures.map(({ path, round, message }) => `path ${path} failed in round ${round}: ${message}`),
    ...(report === undefined ? [] : [`Report: ${shellQuote(report)}`]),
  ].join('\n');
}

function row(path: PathResult): readonly string[] {
  return [
    path.name,
    spread(path.wallSeconds, (seconds) => seconds.toFixed(2)),
    path.baseline === path.name ? '' : spread(path.wallRatio, (ratio) => ratio.toFixed(2)),
    // xlsnap's own figures are more precise than what can be seen from outside.
    spread(path.downtimeSeconds ?? path.stopSeconds, formatSeconds),
    spread(path.cpuSeconds, (seconds) => seconds.toFixed(2)),
    path.baseline === path.name ? '' : median(path.cpuRatio, (ratio) => ratio.toFixed(2)),
    median(path.fileBytes, formatBytes),
    median(path.allocatedBytes, formatBytes),
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
