/**
 * Everything: checks, integration with real qemu and qemu-img, and the lab's tests on real Xen. Installs what it
 * needs when it runs as root, else says what is missing.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ensurePackages } from '../lab/packages.ts';
import { labPaths } from '../lab/paths.ts';
import { Steps } from '../lab/timings.ts';

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
}

const reports = mkdtempSync(join(tmpdir(), 'xlsnap-test-'));
const counts = { passed: 0, failed: 0, skipped: 0 };
const failed: string[] = [];

function run(name: string, command: string, args: readonly string[]): void {
  const report = join(reports, `${name}.json`);
  const start = performance.now();
  console.error(`\n=== ${name}`);
  const { status } = spawnSync(command, args, {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, XLSNAP_TEST_REPORT: report },
  });
  try {
    const { numPassedTests, numFailedTests, numPendingTests } = JSON.parse(
      readFileSync(report, 'utf8'),
    ) as Report;
    counts.passed += numPassedTests;
    counts.failed += numFailedTests;
    counts.skipped += numPendingTests;
  } catch {
    console.error(`${name} left no report`);
    counts.failed += 1;
  }
  console.error(
    `=== ${name}: ${status === 0 ? 'ok' : 'FAILED'}, ${Math.round((performance.now() - start) / 1000)} s`,
  );
  if (status !== 0) failed.push(name);
}

function vitest(project: string): void {
  run(project, process.execPath, ['scripts/vitest-project.mjs', project]);
}

await ensurePackages('test', new Steps(labPaths().timings, process.stderr));
run('check', process.execPath, ['scripts/check.mjs']);
vitest('integration');
vitest('lab');
rmSync(reports, { recursive: true, force: true });
// In this form for whoever reads the end of the output.
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
if (failed.length > 0) {
  console.error(`failed: ${failed.join(', ')}`);
  process.exit(1);
}
