/**
 * Runs everything: checks, integration tests with real QEMU and qemu-img, and the lab's tests on real Xen.
 * Installs what it needs if it runs as root, else says what is missing.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ensurePackages } from '../lab/packages.ts';
import { labPaths } from '../lab/paths.ts';
import { Steps } from '../lab/timings.ts';
import { failureLines, type Report, slowestFiles } from './report.ts';

/** Of each step, this many of the files that took longest are named. */
const MOST_FILES = 12;

/** After so many minutes no other test in the lab begins: a slow machine needs three times as long as a quick one. */
const MINUTES = 60;

const reports = mkdtempSync(join(tmpdir(), 'xlsnap-test-'));
const counts = { passed: 0, skipped: 0 };
const failures: string[] = [];
const times: string[] = [];

function run(name: string, command: string, args: readonly string[]): void {
  const report = join(reports, `${name}.json`);
  const start = performance.now();
  console.error(`\n=== ${name}`);
  const { status } = spawnSync(command, args, {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, XLSNAP_TEST_REPORT: report },
  });
  const told: string[] = [];
  let slowest: readonly string[] = [];
  try {
    const json = JSON.parse(readFileSync(report, 'utf8')) as Report;
    counts.passed += json.numPassedTests;
    counts.skipped += json.numPendingTests;
    told.push(...failureLines(json, process.cwd()));
    slowest = slowestFiles(json, process.cwd(), MOST_FILES);
  } catch {
    told.push('no report of the tests');
  }
  const seconds = Math.round((performance.now() - start) / 1000);
  console.error(`=== ${name}: ${status === 0 ? 'ok' : 'FAILED'}, ${seconds} s`);
  times.push(`${name} took ${seconds} s: ${slowest.join(', ')}`);
  if (status !== 0 && told.length === 0) told.push('failed, but none of its tests did: see its output');
  failures.push(...told.map((line) => `FAILED ${name}: ${line}`));
}

function vitest(project: string): void {
  run(project, process.execPath, ['scripts/vitest-project.mjs', project]);
}

// On a machine of one's own, `npm run check` plants one in five.
process.env['XLSNAP_FAULTS'] ??= 'all';
const minutes = Number(process.env['XLSNAP_TEST_MINUTES'] ?? MINUTES) || Number.POSITIVE_INFINITY;
const until = Date.now() + minutes * 60_000;
process.env['XLSNAP_TEST_UNTIL'] = String(until);
await ensurePackages('test', new Steps(labPaths().timings, process.stderr));
run('check', process.execPath, ['scripts/check.mjs']);
vitest('integration');
vitest('lab');
rmSync(reports, { recursive: true, force: true });
// Once more at the end, and all on stdout: whoever has only the last lines of the output needs them.
for (const line of [...times, ...failures]) console.log(line);
if (Date.now() > until) {
  console.log(
    `tests in the lab that had not begun after ${minutes} minutes were skipped; XLSNAP_TEST_MINUTES=0 runs all`,
  );
}
console.log(`${counts.passed} passed, ${failures.length} failed, ${counts.skipped} skipped`);
if (failures.length > 0) process.exit(1);
