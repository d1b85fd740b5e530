import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type CommandRun, measureCommand } from '../../../src/bench/command.ts';
import { EnvironmentError } from '../../../src/core/errors.ts';

const MIB = 2 ** 20;
/** Burns 0.3 s of processor time while it holds 100 MiB. */
const BUSY = `
  const held = Buffer.alloc(${100 * MIB}, 1);
  while (process.cpuUsage().user < 300_000) held[0]++;
  setTimeout(() => {}, 200);`;

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-bench-test-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

function node(
  script: string,
  options: { signal?: AbortSignal; endsTidily?: boolean } = {},
): Promise<CommandRun> {
  return measureCommand([process.execPath, '-e', script], { directory, endsTidily: true, ...options });
}

test('status and output are returned, and nothing is left', async () => {
  const run = await node('console.log("out"); console.error("err"); process.exitCode = 3');
  expect(run).toMatchObject({ status: 3, stdout: 'out\n', stderr: 'err\n' });
  expect(run.wallSeconds).toBeGreaterThan(0);
  expect(readdirSync(directory)).toEqual([]);
});

test('processor time and memory include those of a grandchild', async () => {
  const run = await node(
    `require('node:child_process').spawnSync(process.execPath, ['-e', ${JSON.stringify(BUSY)}])`,
  );
  expect(run.userSeconds).toBeGreaterThan(0.25);
  expect(run.peakBytes).toBeGreaterThan(100 * MIB);
  expect(run.peakBytes).toBeLessThan(1024 * MIB);
}, 60_000);

test('a command that ends tidily is ended', async () => {
  const abort = new AbortController();
  const running = node('setTimeout(() => {}, 600_000)', { signal: abort.signal });
  abort.abort();
  expect(await running).toMatchObject({ status: -1 });
}, 60_000);

test('a command that does not is left to finish', async () => {
  const abort = new AbortController();
  const running = node('setTimeout(() => console.log("done"), 100)', {
    signal: abort.signal,
    endsTidily: false,
  });
  abort.abort();
  expect(await running).toMatchObject({ status: 0, stdout: 'done\n' });
}, 60_000);

test('a missing command is an error', async () => {
  const none = measureCommand(['/no/such/program'], { directory, endsTidily: true });
  await expect(none).rejects.toThrow(EnvironmentError);
  expect(readdirSync(directory)).toEqual([]);
});
