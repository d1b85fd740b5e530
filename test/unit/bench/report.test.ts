import { describe, expect, test } from 'vitest';
import { benchCautions, pathFindings } from '../../../src/bench/findings.ts';
import { ticks } from '../../../src/bench/plot.ts';
import { benchReport } from '../../../src/bench/report.ts';
import type { Summary } from '../../../src/bench/statistics.ts';
import type { BenchResult } from '../../../src/bench/types.ts';
import { jsonLine } from '../../../src/cli/text.ts';
import { benchResult } from './samples.ts';

const page = benchReport(
  benchResult,
  "xlsnap bench 'guest<1>' --rounds 2",
  jsonLine('bench_result', benchResult),
);
const data = /<script type="application\/json" id="bench-result">([\s\S]*?)<\/script>\n/.exec(page);
/** Without the figures for programs. */
const html = page.replace(data?.[0] ?? '', '');
const style = /<style>([\s\S]*?)<\/style>/.exec(html)?.[1] ?? '';
const body = html.slice(html.indexOf('<body>'));
const text = body.replaceAll(/<[^>]*>/g, ' ');

test('it needs nothing else: no script, no link, no address', () => {
  expect(html).not.toMatch(/<(script|link|img|iframe|object|embed|base|form)\b/i);
  expect(html).not.toMatch(/https?:|\/\/[a-z]|@import|url\(|\b(src|href|on[a-z]+)=/i);
});

test('the figures are in it, for programs', () => {
  expect(JSON.parse(data?.[1] ?? '')).toEqual(JSON.parse(jsonLine('bench_result', benchResult)));
});

test('each element is closed, in order, and each attribute is quoted', () => {
  const open: string[] = [];
  for (const [, close, name = '', attributes = '', self] of html
    .replace('<!DOCTYPE html>', '')
    .replace(style, '')
    .matchAll(/<(\/?)([a-z][a-z0-9]*)((?:\s+[a-zA-Z0-9:-]+="[^"<>]*")*)\s*(\/?)>/g)) {
    if (close === '/') expect(open.pop()).toBe(name);
    else if (self !== '/' && name !== 'meta') open.push(name);
    expect(attributes).not.toContain('<');
  }
  expect(open).toEqual([]);
  // Outside of them there is no angle bracket.
  expect(
    html
      .replace(style, '')
      .replaceAll(/<!DOCTYPE html>|<\/?[a-z][a-z0-9]*(?:\s+[a-zA-Z0-9:-]+="[^"<>]*")*\s*\/?>/g, ''),
  ).not.toMatch(/[<>]/);
});

test('no number is missing', () => {
  expect(body).not.toMatch(/NaN|undefined|Infinity|null/);
});

test('texts from outside are escaped', () => {
  expect(text).toContain('Saving guest&lt;1&gt;&amp;&quot;2&quot;');
  expect(text).toContain('&lt;no&gt; answer');
  expect(text).toContain('bench &#39;guest&lt;1&gt;&#39; --rounds 2');
});

test('it has the machine, the versions, the failures and every run', () => {
  for (const fact of [
    'Some CPU',
    '24.0 GiB',
    'Xen 4.20.4-pre',
    'Linux 6.12',
    'ext4',
    'xlsnap 0.1.0',
    'v20.19.2',
  ]) {
    expect(text).toContain(fact);
  }
  expect(text).toContain('warming up');
  expect(body.match(/<th scope="row">(xl-save|live\+sync)<\/th><td[^>]*>(warm-up|[12])<\/td>/g)).toHaveLength(
    benchResult.runs.length + 4,
  );
});

test('plots have a dot, within their area, for each run that counts', () => {
  const plots = [...html.matchAll(/<svg class="(?:wide|narrow)" viewBox="0 0 (\d+) (\d+)"[\s\S]*?<\/svg>/g)];
  const titles = plots.map(([plot]) => /aria-label="([^"]*)"/.exec(plot)?.[1]);
  // Once for wide windows, and once for narrow ones.
  expect(titles.filter((_, at) => at % 2 === 0)).toEqual(titles.filter((_, at) => at % 2 === 1));
  expect(titles.filter((_, at) => at % 2 === 0)).toEqual([
    'The whole command',
    'Where the time goes',
    'Guest stopped',
    'While the guest is stopped',
    'CPU time',
    'Peak memory',
    'The memory file',
  ]);
  for (const [plot, width, height] of plots) {
    for (const [, axis, at] of plot.matchAll(/ c?([xy])[12]?="(-?[0-9.]+)"/g)) {
      expect(Number(at)).toBeGreaterThanOrEqual(0);
      expect(Number(at)).toBeLessThanOrEqual(Number(axis === 'x' ? width : height));
    }
  }
  expect(plots[0]?.[0].match(/<circle/g)).toHaveLength(4);
});

test('each part of a bar has a colour, in light and dark mode', () => {
  const used = new Set([...body.matchAll(/class="(?:part|key) (p-[a-z-]+)"/g)].map(([, name]) => name ?? ''));
  expect(used.size).toBeGreaterThan(8);
  for (const name of used) {
    const colour = new RegExp(`\\.${name} \\{ fill: var\\((--[a-z-]+)\\)`).exec(style)?.[1];
    // Light, dark, and light on paper.
    expect(style.match(new RegExp(`[\\s;]${colour}: #`, 'g')), name).toHaveLength(3);
  }
});

test('a caution is on top where the figures may not hold, and each comparison in a sentence', () => {
  const [xl, live] = benchResult.paths;
  if (xl?.wallSeconds === undefined || live === undefined) throw new Error('no sample');
  const of = (min: number, median: number, max: number, count = 6): Summary => ({
    count,
    min,
    lowerQuartile: min,
    median,
    upperQuartile: max,
    max,
    ...(count < 6 ? {} : { interval: { lower: min, upper: max, confidence: 0.96875 } }),
  });
  const result = {
    ...benchResult,
    rounds: 6,
    paths: [
      { ...xl, baseline: xl.name, stopSeconds: of(1.7, 1.8, 1.9) },
      {
        ...live,
        baseline: xl.name,
        wallRatio: of(0.5, 0.6, 0.7),
        downtimeSeconds: of(0.01, 0.012, 0.02),
        stopRatio: of(0.005, 0.0066, 0.01),
        dirtyPagesPerSecond: of(80, 86, 90),
      },
      {
        ...live,
        name: 'paused',
        baseline: xl.name,
        wallRatio: of(0.9, 1.1, 1.2),
        downtimeSeconds: of(1.6, 1.75, 1.8),
        stopRatio: of(0.8, 0.97, 1.1),
      },
      {
        ...live,
        name: 'tracked',
        baseline: xl.name,
        wallRatio: of(1.3, 1.4, 1.5),
        downtimeSeconds: undefined,
        trackedPages: of(300, 300, 300),
      },
    ],
  } as BenchResult;
  expect(pathFindings(result)).toEqual([
    'live+sync: faster than xl-save (0.60 of its time, 96 % interval 0.50 to 0.70); the guest was stopped for 12 ms instead of 1.80 s; it wrote to 86 pages/s in the meantime.',
    'paused: no difference from xl-save beyond noise (1.10 of its time, 96 % interval 0.90 to 1.20); the guest was stopped for 1.75 s instead of 1.80 s, no difference beyond noise.',
    'tracked: slower than xl-save (1.40 of its time, 96 % interval 1.30 to 1.50); it had written 300 pages since the earlier snapshot.',
  ]);
  // Two rounds may be on one side by chance.
  const few = {
    ...result,
    paths: result.paths.map((path) => ({ ...path, wallRatio: of(0.5, 0.6, 0.7, 2) })),
  };
  expect(pathFindings(few)[0]).toContain('too few rounds to compare with xl-save (0.60 of its time)');
  expect(benchCautions(result)).toEqual([]);
  const busy = { ...result, rounds: 1, machine: { ...result.machine, loadAfter: 7.66 } };
  expect(benchCautions(busy)).toEqual([
    'dom0 was busy: a load of 7.7 on 2 processors, so the figures vary',
    'one round is too few for a 95 % interval: --rounds 6 or more',
  ]);
  const page = benchReport(busy, 'x', '{}');
  expect(page.indexOf('dom0 was busy')).toBeGreaterThan(page.indexOf('<h1>'));
  expect(page.indexOf('dom0 was busy')).toBeLessThan(page.indexOf('Summary'));
});

test('bars are of the run with the median, not of means that no run has', () => {
  const shares = [1, 2, 9].map((seconds, at) => ({
    path: 'xl-save',
    round: at + 1,
    wallSeconds: seconds,
    userSeconds: 0,
    systemSeconds: 0,
    peakBytes: 1,
    phases: [{ name: 'stopped', startSeconds: 0, seconds }],
    fileBytes: 1,
    allocatedBytes: 1,
  }));
  const page = benchReport({ ...benchResult, runs: shares }, 'x', '{}');
  expect(page).toContain('<title>xl-save, guest stopped: 2 s</title>');
});

describe('ticks', () => {
  test.each([
    [1, [0, 0.2, 0.4, 0.6, 0.8, 1]],
    [0.0123, [0, 0.005, 0.01]],
    [73, [0, 20, 40, 60]],
    [600, [0, 100, 200, 300, 400, 500, 600]],
  ])('up to %f', (end, expected) => {
    expect(ticks(end)).toEqual(expected);
  });
});
