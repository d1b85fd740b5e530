/** The bench's report: one HTML file with tables and plots. */
import { EMBEDDED_END, EMBEDDED_START } from './earlier.ts';
import { benchCautions, pathFindings, ratio, VERDICTS } from './findings.ts';
import { escapeMarkup, tableMarkup } from './markup.ts';
import { type BarPart, type BarRow, stackedBars, stripPlot } from './plot.ts';
import { stoppedSeconds } from './ratios.ts';
import { REPORT_STYLE } from './report-style.ts';
import { MIN_FOR_INTERVAL, type Summary, summarise } from './statistics.ts';
import type { BenchResult, BenchRun, PathResult } from './types.ts';

const MIB = 2 ** 20;

/** How the report names xlsnap's phases before and after the stop. */
const PHASE_WORDS: Readonly<Record<string, string>> = {
  lock: 'checks',
  plan: 'checks',
  preflight: 'checks',
  precopy: 'copied while the guest runs',
  suspend: 'waiting for the guest to suspend',
  stopped: 'guest stopped',
  // xl's phases, as seen from outside.
  before: 'start and end of the process',
  after: 'start and end of the process',
};
const STOPPED_PHASES: readonly string[] = ['device-model', 'memory', 'contexts', 'disks', 'resume'];

/**
 * Renders a bench as one HTML file that needs nothing else: no scripts, fonts or network.
 * @param command the command line that was run
 * @param json what `--json` prints, for programs, and for a later `--baseline`
 */
export function benchReport(result: BenchResult, command: string, json: string): string {
  const { domain, rounds, started, failures } = result;
  return [
    '<!DOCTYPE html>',
    '<html lang="en">',
    '<head>',
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="generator" content="xlsnap bench">',
    `<title>${escapeMarkup(`Saving ${domain}: xl and xlsnap`)}</title>`,
    `<style>${REPORT_STYLE}</style>`,
    '</head>',
    '<body>',
    '<main>',
    `<h1>${escapeMarkup(`Saving ${domain}: xl and xlsnap`)}</h1>`,
    `<p class="sub">${escapeMarkup(
      `${result.type}, ${mib(result.memoryBytes)}; ${rounds === 1 ? 'one round' : `${rounds} rounds`} on ${utc(started)}`,
    )}</p>`,
    ...cautions(result),
    ...pathFindings(result).map((text) => `<p class="result">${escapeMarkup(text)}</p>`),
    ...(failures.length === 0 ? [] : [failureSection(result)]),
    summaryTable(result),
    ...earlierSection(result),
    ...plots(result),
    ...sizes(result),
    ...liveRounds(result),
    method(result, command),
    everyRun(result),
    '</main>',
    // As text it may have anything but the end of the element.
    `${EMBEDDED_START}${json.replaceAll('<', '\\u003c')}${EMBEDDED_END}`,
    '</body>',
    '</html>',
    '',
  ].join('\n');
}

function cautions(result: BenchResult): readonly string[] {
  const all = benchCautions(result);
  if (all.length === 0) return [];
  return [
    `<div class="caution"><ul>${all.map((text) => `<li>${escapeMarkup(text)}</li>`).join('')}</ul></div>`,
  ];
}

function failureSection({ failures }: BenchResult): string {
  const items = failures.map(
    ({ path, round, message }) =>
      `<li><strong>${escapeMarkup(path)}</strong>, ${round === 0 ? 'warming up' : `round ${round}`}: ${escapeMarkup(message)}</li>`,
  );
  return `<section class="failed"><h2>Failed</h2>\n<ul>${items.join('')}</ul>\n<p>The figures below are from the successful runs.</p></section>`;
}

function summaryTable(result: BenchResult): string {
  const { paths, memoryBytes, rounds } = result;
  const compared = ({ name, baseline }: PathResult): boolean => baseline !== name;
  const tail = paths.some(({ wallSeconds }) => wallSeconds?.p95 !== undefined);
  const stopped = (path: PathResult): Summary | undefined => path.downtimeSeconds ?? path.stopSeconds;
  const times = paths.map((path) => [
    path.name,
    String(path.wallSeconds?.count ?? 0),
    spread(path.wallSeconds, seconds),
    path.wallSeconds === undefined ? '–' : String(Math.round(memoryBytes / MIB / path.wallSeconds.median)),
    compared(path) ? spread(path.wallRatio, ratio) : '',
    compared(path) ? between(path.wallRatio, ratio) : '',
    spread(stopped(path), time),
    compared(path) ? between(path.stopRatio, ratio) : '',
    ...(tail ? [tailOf(path.wallSeconds, seconds), tailOf(stopped(path), time)] : []),
  ]);
  const resources = paths.map((path) => [
    path.name,
    spread(path.cpuSeconds, seconds),
    compared(path) ? spread(path.cpuRatio, ratio) : '',
    middle(path.peakBytes, mib),
    middle(path.allocatedBytes, mib),
    path.writtenBytes === undefined ? '–' : mib(path.writtenBytes),
    middle(path.dirtyPagesPerSecond, whole),
    middle(path.trackedPages, whole),
  ]);
  // Columns without a figure are left out.
  const used = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
    const kept = head.flatMap((_, at) =>
      at === 0 || rows.some((row) => !['', '–', undefined].includes(row[at])) ? [at] : [],
    );
    const cells = (row: readonly string[]): readonly string[] => kept.map((at) => row[at] ?? '');
    return tableMarkup(cells(head), rows.map(cells));
  };
  return [
    '<h2>Summary</h2>',
    used(
      [
        'path',
        'runs',
        'whole command, s',
        'MiB/s',
        'vs xl',
        'interval',
        'guest stopped',
        'interval vs xl',
        'command, p95',
        'stopped, p95',
      ],
      times,
    ),
    `<p class="small">Medians, with minimum and maximum in brackets. <em>vs xl</em>: each run against <code>xl save -c</code> of the same round. <em>interval</em>: where the median ratio is with a confidence of 95 % or more, by the sign test${rounds < MIN_FOR_INTERVAL ? `; it needs ${MIN_FOR_INTERVAL} rounds` : ''}. ${tail ? '' : 'For a 95th percentile there are too few rounds: the maximum is the worst run. '}<em>MiB/s</em>: the guest’s memory by the whole command. `,
    'For xlsnap, the time that the guest was stopped is xlsnap’s own measurement; for xl it is sampled from outside.</p>',
    used(
      [
        'path',
        'CPU, s',
        'CPU vs xl',
        'peak memory',
        'file on disk',
        'written to the device',
        'dirtied, pages/s',
        'written since, pages',
      ],
      resources,
    ),
    '<p class="small"><em>written to the device</em>: in the run that warmed up, until the file was on the disk; includes what other programs wrote. <em>dirtied</em>: how fast the guest wrote to pages while they were copied.</p>',
  ].join('\n');
}

function earlierSection({ earlier }: BenchResult): readonly string[] {
  if (earlier === undefined) return [];
  const rows = earlier.paths.flatMap(({ name, wall, stop }) =>
    (
      [
        ['whole command', wall],
        ['guest stopped', stop],
      ] as const
    ).flatMap(([what, change]) =>
      change === undefined
        ? []
        : [
            [
              name,
              what,
              spread(change.before, ratio),
              between(change.before, ratio),
              spread(change.after, ratio),
              between(change.after, ratio),
              VERDICTS[change.verdict],
            ],
          ],
    ),
  );
  return [
    '<h2>Compared with an earlier bench</h2>',
    `<p>${escapeMarkup(`xlsnap ${earlier.version}, ${utc(earlier.started)}.`)}</p>`,
    ...(earlier.differences.length === 0
      ? []
      : [
          `<div class="caution"><ul>${earlier.differences.map((text) => `<li>${escapeMarkup(text)}</li>`).join('')}</ul></div>`,
        ]),
    ...(rows.length === 0
      ? ['<p>No path has a ratio to <code>xl save</code> in both.</p>']
      : [
          tableMarkup(['path', 'vs xl', 'then', 'interval then', 'now', 'interval now', 'ratio'], rows),
          '<p class="small">A ratio is called lower or higher only if the two intervals do not overlap.</p>',
        ]),
  ];
}

function plots({ paths, runs }: BenchResult): readonly string[] {
  const strip = (
    heading: string,
    caption: string,
    measured: (run: BenchRun) => number | undefined,
    format: (value: number) => string,
  ): string => {
    const rows = paths.flatMap((path) => {
      const values = counting(runs, path).flatMap((run) => measured(run) ?? []);
      const summary = summarise(values);
      if (summary === undefined) return [];
      return [
        {
          label: path.name,
          values,
          summary,
          value: format(summary.median),
          baseline: path.mode === 'xl-save',
        },
      ];
    });
    return rows.length === 0 ? '' : figure(heading, stripPlot(rows, { title: heading, format }), caption);
  };
  const bars = (
    heading: string,
    caption: string,
    measured: (run: BenchRun) => number,
    partsOf: (run: BenchRun) => readonly BarPart[],
  ): string => {
    const rows = paths.flatMap((path) => barOf(path, medianRun(counting(runs, path), measured), partsOf));
    return rows.length === 0
      ? ''
      : figure(heading, stackedBars(rows, { title: heading, format: time }), caption);
  };
  return [
    strip(
      'The whole command',
      'From before the start of the process to its end. Each dot is a run, the line is the median, the box holds the middle half.',
      (run) => run.wallSeconds,
      time,
    ),
    bars(
      'Where the time goes',
      'Of each path the run whose time is the median. xl reports nothing itself; only its stop can be seen from outside.',
      (run) => run.wallSeconds,
      commandParts,
    ),
    strip('Guest stopped', 'From suspend to resume.', stoppedSeconds, time),
    bars(
      'While the guest is stopped',
      'Of each path the run whose stop is the median. memory: the guest’s pages, or those of the last round when live; contexts: the rest of its state.',
      (run) => stoppedSeconds(run) ?? 0,
      stoppedParts,
    ),
    strip(
      'CPU time',
      'User and system time of the command and of all processes that it started, in steps of 10 ms.',
      (run) => run.userSeconds + run.systemSeconds,
      time,
    ),
    strip(
      'Peak memory',
      'Sum of the largest resident sets of the command and the processes that it started, sampled every 50 ms.',
      (run) => run.peakBytes / MIB,
      wholeMib,
    ),
  ].filter((text) => text !== '');
}

function sizes({ paths }: BenchResult): readonly string[] {
  const rows = paths.flatMap(({ name, fileBytes, allocatedBytes }): BarRow[] => {
    if (fileBytes === undefined || allocatedBytes === undefined) return [];
    const parts = [
      { name: 'on disk', value: allocatedBytes.median / MIB },
      { name: 'zeros left out', value: Math.max(0, fileBytes.median - allocatedBytes.median) / MIB },
    ];
    return [
      { label: name, parts, value: `${Math.round(allocatedBytes.median / MIB)} of ${mib(fileBytes.median)}` },
    ];
  });
  if (rows.length === 0) return [];
  return [
    figure(
      'The memory file',
      stackedBars(rows, { title: 'The memory file', format: wholeMib }),
      'Medians of its length and of the space that the file system has allocated for it.',
    ),
  ];
}

function liveRounds({ paths, runs }: BenchResult): readonly string[] {
  const live = paths.filter(({ mode }) => mode === 'live' || mode === 'tracked');
  const rows = live.flatMap((path) => {
    const all = counting(runs, path).flatMap(({ rounds }) => (rounds === undefined ? [] : [rounds]));
    const most = Math.max(0, ...all.map((rounds) => rounds.length));
    return Array.from({ length: most }, (_, at) => {
      const these = all.flatMap((rounds) => rounds[at] ?? []);
      const of = (key: 'pages' | 'seconds' | 'dirtyAfter'): Summary | undefined =>
        summarise(these.map((round) => round[key]));
      return [
        path.name,
        `${at + 1}`,
        `${these.length} of ${all.length}`,
        spread(of('pages'), whole),
        spread(of('seconds'), time),
        spread(of('dirtyAfter'), whole),
        spread(
          summarise(
            these.flatMap(({ dirtyAfter, seconds: took }) =>
              took > 0 && at < most - 1 ? [dirtyAfter / took] : [],
            ),
          ),
          whole,
        ),
      ];
    });
  });
  if (rows.length === 0) return [];
  return [
    '<h2>Rounds of the live snapshots</h2>',
    tableMarkup(
      ['path', 'round', 'in runs', 'pages copied', 'time', 'written in the meantime', 'pages/s'],
      rows,
    ),
    '<p class="small">Medians, with minimum and maximum in brackets. <em>pages/s</em>: how fast the guest wrote to pages that it had not written to in the round. The last round of a run copies from the stopped guest.</p>',
  ];
}

function method(result: BenchResult, command: string): string {
  const { machine, xen, node, version, memoryBytes, totalSeconds, runs } = result;
  const unsure = summarise(runs.flatMap(({ stop }) => stop?.plusMinusSeconds ?? []));
  const facts: readonly (readonly [string, string])[] = [
    ['command', command],
    [
      'machine',
      `${machine.cpus} × ${machine.cpu}${machine.governor === undefined ? '' : ` (governor ${machine.governor})`}, ${mib(machine.memoryBytes)} in dom0`,
    ],
    [
      'system',
      `Xen ${xen.major}.${xen.minor}${xen.extra}, ${machine.kernel}, files on ${machine.fileSystem}${machine.storage === undefined ? '' : `, ${machine.storage}`}`,
    ],
    ['programs', `xlsnap ${version}, Node ${node}`],
    [
      'load',
      `${machine.loadBefore.toFixed(1)} before, ${machine.loadAfter.toFixed(1)} after; ${time(totalSeconds)} in all`,
    ],
  ];
  return [
    '<h2>How it was measured</h2>',
    `<dl>${facts.map(([name, text]) => `<dt>${name}</dt><dd>${name === 'command' ? `<code>${escapeMarkup(text)}</code>` : escapeMarkup(text)}</dd>`).join('')}</dl>`,
    '<ul class="small">',
    '<li>Each path runs once per round, in a different order each time. A first round warms up and does not count.</li>',
    `<li>Before each run a file of ${mib(memoryBytes * 1.5)} is written and removed, so that no run pays for fresh page cache memory.</li>`,
    '<li>Each path runs as a command of its own, including the start of the process. Only the memory is saved, no disks. The files of the first round were verified.</li>',
    '<li>Without <code>+sync</code> no command waits for the disk: <code>xl save</code> never does, and <code>snapshot-create</code> runs with <code>--no-sync</code>.</li>',
    `<li>From outside, the domain’s state is sampled continuously${unsure === undefined ? '' : `; a stop seen so may be ${time(unsure.median)} longer or shorter (at most ${time(unsure.max)})`}.</li>`,
    '<li>The numbers hold for this guest, under its load, on this machine. Compare paths with each other, not with other machines.</li>',
    '</ul>',
  ].join('\n');
}

function everyRun({ runs }: BenchResult): string {
  const rows = runs.map((run) => [
    run.path,
    run.round === 0 ? 'warm-up' : String(run.round),
    run.wallSeconds.toFixed(3),
    run.callSeconds?.toFixed(3) ?? '',
    run.userSeconds.toFixed(2),
    run.systemSeconds.toFixed(2),
    run.downtimeSeconds === undefined ? '' : time(run.downtimeSeconds),
    run.stop === undefined ? '' : `${time(run.stop.seconds)} ± ${time(run.stop.plusMinusSeconds)}`,
    mib(run.fileBytes),
    mib(run.allocatedBytes),
    mib(run.peakBytes),
  ]);
  return [
    '<h2>Every run</h2>',
    tableMarkup(
      [
        'path',
        'round',
        'command, s',
        'call, s',
        'user, s',
        'system, s',
        'stopped',
        'seen from outside',
        'file',
        'on disk',
        'peak',
      ],
      rows,
      'scroll',
    ),
    '<p class="small"><em>call</em>: the library call alone, without starting Node.</p>',
  ].join('\n');
}

/** Splits the whole command into parts. */
function commandParts(run: BenchRun): readonly BarPart[] {
  const parts = new Map<string, number>();
  const add = (name: string, value: number): void => {
    parts.set(name, (parts.get(name) ?? 0) + value);
  };
  if (run.callSeconds !== undefined)
    add('start and end of the process', Math.max(0, run.wallSeconds - run.callSeconds));
  for (const { name, seconds: value } of run.phases) {
    add(STOPPED_PHASES.includes(name) ? 'guest stopped' : (PHASE_WORDS[name] ?? name), value);
  }
  return [...parts].map(([name, value]) => ({ name, value }));
}

function stoppedParts(run: BenchRun): readonly BarPart[] {
  return run.phases
    .filter(({ name }) => STOPPED_PHASES.includes(name) || name === 'stopped')
    .map(({ name, seconds: value }) => ({ name: PHASE_WORDS[name] ?? name, value }));
}

/** The run with the median; of an even number, the lower of the two in the middle. */
function medianRun(runs: readonly BenchRun[], measured: (run: BenchRun) => number): BenchRun | undefined {
  return [...runs].sort((a, b) => measured(a) - measured(b))[Math.floor((runs.length - 1) / 2)];
}

function barOf(
  path: PathResult,
  run: BenchRun | undefined,
  partsOf: (run: BenchRun) => readonly BarPart[],
): readonly BarRow[] {
  const parts = run === undefined ? [] : partsOf(run);
  if (parts.length === 0) return [];
  return [{ label: path.name, parts, value: time(parts.reduce((sum, { value }) => sum + value, 0)) }];
}

function counting(runs: readonly BenchRun[], path: PathResult): readonly BenchRun[] {
  return runs.filter((run) => run.path === path.name && run.round > 0);
}

function figure(heading: string, content: string, caption: string): string {
  return `<h2>${escapeMarkup(heading)}</h2>\n<figure>${content}\n<figcaption>${escapeMarkup(caption)}</figcaption></figure>`;
}

function spread(summary: Summary | undefined, format: (value: number) => string): string {
  if (summary === undefined) return '–';
  const [min, max] = [format(summary.min), format(summary.max)];
  return min === max ? min : `${format(summary.median)} (${min}–${max})`;
}

/** The interval of the median. */
function between(summary: Summary | undefined, format: (value: number) => string): string {
  const interval = summary?.interval;
  return interval === undefined ? '–' : `${format(interval.lower)}–${format(interval.upper)}`;
}

function tailOf(summary: Summary | undefined, format: (value: number) => string): string {
  return summary?.p95 === undefined ? '–' : format(summary.p95);
}

function utc(time: string): string {
  return `${time.slice(0, 16).replace('T', ' ')} UTC`;
}

function middle(summary: Summary | undefined, format: (value: number) => string): string {
  return summary === undefined ? '–' : format(summary.median);
}

function seconds(value: number): string {
  return value.toFixed(2);
}

function whole(value: number): string {
  return String(Math.round(value));
}

/** Formats a time: `0.4 ms`, `34 ms`, `1.25 s`, `73 s`. */
function time(value: number): string {
  if (value === 0) return '0';
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 60 ? `${Number(value.toFixed(2))} s` : `${Math.round(value)} s`;
}

/** Formats a size: `718 MiB`, `23.5 GiB`. */
function mib(bytes: number): string {
  return bytes < 10_240 * MIB ? `${Math.round(bytes / MIB)} MiB` : `${(bytes / MIB / 1024).toFixed(1)} GiB`;
}

function wholeMib(value: number): string {
  return `${Math.round(value)} MiB`;
}
