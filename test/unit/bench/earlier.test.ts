import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { compareBenches, parseEarlierBench, readEarlierBench } from '../../../src/bench/earlier.ts';
import { earlierFindings } from '../../../src/bench/findings.ts';
import { benchReport } from '../../../src/bench/report.ts';
import type { BenchResult, BenchRun } from '../../../src/bench/types.ts';
import { jsonLine } from '../../../src/cli/text.ts';
import { UsageError } from '../../../src/core/errors.ts';
import { benchResult } from './samples.ts';

/** A bench whose path `live+sync` takes these shares of xl's time, a round each. */
function bench(shares: readonly number[]): BenchResult {
  const [xl, live] = benchResult.runs;
  if (xl === undefined || live === undefined) throw new Error('no sample');
  const runs = shares.flatMap((share, at): BenchRun[] => [
    { ...xl, round: at + 1, wallSeconds: 2 },
    { ...live, round: at + 1, wallSeconds: 2 * share, downtimeSeconds: 0.18 },
  ]);
  // The warm-up round would change each ratio.
  return { ...benchResult, rounds: shares.length, runs: [{ ...live, wallSeconds: 99 }, xl, ...runs] };
}

const near = (middle: number, count = 6): number[] =>
  Array.from({ length: count }, (_, at) => middle + at / 1000);
const json = (result: BenchResult): string => `${jsonLine('bench_result', result)}\n`;

test.each([
  [near(0.5), near(0.6), 'higher'],
  [near(0.6), near(0.5), 'lower'],
  [near(0.5), near(0.503), 'no_difference'],
  [near(0.5), near(0.9, 5), 'too_few_rounds'],
])('a ratio has changed only if the intervals do not overlap: %#', (then, now, verdict) => {
  const { paths, started } = compareBenches(bench(now), parseEarlierBench('old', json(bench(then))));
  expect(started).toBe(benchResult.started);
  expect(paths).toEqual([
    {
      name: 'live+sync',
      wall: { before: expect.anything(), after: expect.anything(), verdict },
      stop: expect.objectContaining({
        verdict: verdict === 'too_few_rounds' ? verdict : 'no_difference',
      }),
    },
  ]);
  expect(paths[0]?.wall?.before.median).toBeCloseTo((then[2] ?? 0) / 2 + (then[3] ?? 0) / 2, 6);
});

test('what else was different is reported', () => {
  const now = bench(near(0.6));
  const then = {
    ...bench(near(0.5)),
    version: '0.0.9',
    memoryBytes: 256 * 2 ** 20,
    machine: { ...now.machine, storage: 'vda' },
  };
  const earlier = compareBenches(now, parseEarlierBench('old', json(then)));
  // Storage is not known now, so nothing is said of it.
  expect(earlier.differences).toEqual(['memory: 256 MiB, now 512 MiB']);
  expect(earlierFindings({ ...now, earlier })).toEqual([
    'Compared with xlsnap 0.0.9 on 2026-11-25 15:00 UTC, in ratios to xl save:',
    'Other conditions then: memory: 256 MiB, now 512 MiB.',
    'live+sync: time 0.60, was 0.50 (higher); stop 0.10, was 0.10 (no difference beyond noise).',
  ]);
});

test('without a path in common there is nothing to compare', () => {
  const alone = { ...bench(near(0.5)), paths: benchResult.paths.map((path) => ({ ...path, name: 'other' })) };
  const earlier = compareBenches(bench(near(0.5)), parseEarlierBench('old', json(alone)));
  expect(earlier.paths).toEqual([]);
  expect(earlierFindings({ ...benchResult, earlier })[0]).toContain('Nothing to compare');
});

test('a report can be given as well, whatever is in its texts', () => {
  const nasty = { ...bench(near(0.5)), warnings: ['</script><script>alert(1)</script><!--'] };
  const page = benchReport(nasty, 'x', jsonLine('bench_result', nasty));
  expect(page.match(/<script/g)).toHaveLength(1);
  expect(page.match(/<\/script/g)).toHaveLength(1);
  expect(parseEarlierBench('r.html', page)).toEqual(parseEarlierBench('r.json', json(nasty)));
});

test.each([
  ['', 'neither JSON nor a report'],
  ['{}', 'message_type is not bench_result'],
  ['<html>', 'neither JSON nor a report'],
  ['{"message_type":"create_result"}', 'message_type is not bench_result'],
  [json(benchResult).replace('"runs":[', '"runs":7,"x":['), 'runs is not a list'],
  [
    json(benchResult).replace('"wall_seconds":2', '"wall_seconds":"2"'),
    'runs[0].wall_seconds is not a number',
  ],
])('another file is refused: %#', (text, problem) => {
  expect(() => parseEarlierBench('old.json', text)).toThrow(UsageError);
  expect(() => parseEarlierBench('old.json', text)).toThrow(`old.json is not the result of a bench: `);
  expect(() => parseEarlierBench('old.json', text)).toThrow(problem);
});

test('a file that cannot be read is refused', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'xlsnap-earlier-'));
  try {
    const file = join(directory, 'b.json');
    await expect(readEarlierBench(file)).rejects.toThrow('does not exist');
    await expect(readEarlierBench(directory)).rejects.toThrow('cannot be read');
    writeFileSync(file, json(benchResult));
    expect((await readEarlierBench(file)).version).toBe('0.1.0');
  } finally {
    rmSync(directory, { recursive: true });
  }
});
