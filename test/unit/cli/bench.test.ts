import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { BenchRequest } from '../../../src/bench/types.ts';
import { benchResultText } from '../../../src/cli/bench-text.ts';
import { jsonLine } from '../../../src/cli/text.ts';
import { EXIT } from '../../../src/core/errors.ts';
import { benchResult } from '../bench/samples.ts';
import { xlsnap } from './support.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-bench-test-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

test('prints a table, and what failed', async () => {
  const { code, stdout } = await xlsnap(['bench', 'guest1']);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^path +seconds +to xl/m);
  expect(stdout).toMatch(/^xl-save +2\.15 \(2\.10 to 2\.20\)/m);
  expect(stdout).toMatch(/^live\+sync +1\.15/m);
  expect(stdout).toMatch(/^paused +-/m);
  expect(stdout).toContain('path paused failed in round 0');
});

test.each([40, 60, 80])('it fits a terminal of %i columns', (columns) => {
  const text = benchResultText(benchResult, undefined, columns);
  for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(columns);
  expect(text.includes('(2.10 to 2.20)')).toBe(columns >= 80);
  // A table that does not fit becomes a line for each cell.
  expect(text.includes('\nxl-save\n  CPU s: ')).toBe(columns < 80);
});

test('an earlier bench is read before anything is measured, and compared', async () => {
  const old = join(directory, 'old.json');
  writeFileSync(old, jsonLine('bench_result', { ...benchResult, version: '0.0.1' }));
  const { stdout } = await xlsnap(['bench', 'guest1', '--baseline', old, '--json']);
  expect(JSON.parse(stdout)).toMatchObject({ earlier: { version: '0.0.1', differences: [] } });
  writeFileSync(old, '{}');
  const { code, stderr, opened } = await xlsnap(['bench', 'guest1', '--baseline', old]);
  expect({ code, opened }).toEqual({ code: EXIT.usage, opened: 0 });
  expect(stderr).toContain('is not the result of a bench');
});

test('arguments reach the bench', async () => {
  const { calls } = await xlsnap([
    'bench',
    '7',
    '--paths',
    'live,paused+sync',
    '--rounds',
    '9',
    '--dir',
    '/srv',
  ]);
  expect(calls).toEqual([
    {
      name: 'runBench',
      request: {
        domain: '7',
        paths: [expect.objectContaining({ name: 'live' }), expect.objectContaining({ name: 'paused+sync' })],
        rounds: 9,
        directory: '/srv',
        own: ['node', 'xlsnap.js'],
        version: expect.stringMatching(/^\d/),
      },
    },
  ]);
  const usual = (await xlsnap(['bench', '7'])).calls[0]?.request as BenchRequest;
  expect(usual.paths.map(({ name }) => name)).toEqual(['xl-save', 'paused', 'live']);
  expect(usual.rounds).toBe(6);
});

test('writes a report, which says what was run', async () => {
  const report = join(directory, 'r.html');
  const { stdout } = await xlsnap(['bench', 'guest 1', '--paths', 'live', '--report', report]);
  expect(stdout).toContain(`Report: ${report}`);
  expect(readFileSync(report, 'utf8')).toContain("xlsnap bench 'guest 1' --paths live");
});

test('an existing report is kept, and nothing is measured', async () => {
  const report = join(directory, 'r.html');
  writeFileSync(report, 'precious');
  const { code, stderr, calls } = await xlsnap(['bench', 'guest1', '--report', report]);
  expect(code).toBe(EXIT.output);
  expect(stderr).toContain('already exists');
  expect(calls).toEqual([]);
  expect(readFileSync(report, 'utf8')).toBe('precious');
});

test('unknown paths are refused before anything is opened', async () => {
  const { code, stderr, opened } = await xlsnap(['bench', 'guest1', '--paths', 'virsh']);
  expect({ code, opened }).toEqual({ code: EXIT.usage, opened: 0 });
  expect(stderr).toContain('no path "virsh"');
});
