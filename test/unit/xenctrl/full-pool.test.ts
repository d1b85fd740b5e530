import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fastDirectory } from '../../support/scene.ts';

const source = readFileSync(join(import.meta.dirname, '../../../src/xenctrl/xen-control.ts'), 'utf8');

test('calls in this thread run although files that hang hold every thread of the pool', () => {
  const directory = fastDirectory('xlsnap-pool-');
  try {
    const fifo = join(directory, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const runner = join(import.meta.dirname, '../../../scripts/run.mjs');
    const program = join(import.meta.dirname, '../../support/full-pool.ts');
    const env = { ...process.env, UV_THREADPOOL_SIZE: '4' };
    const { stdout, stderr } = spawnSync(process.execPath, [runner, program, fifo], {
      encoding: 'utf8',
      env,
    });
    // If a thread were left, this would prove nothing.
    expect(stdout.trim() || stderr).toBe('this thread, no thread');
  } finally {
    rmSync(directory, { recursive: true });
  }
});

// Each takes microseconds, and the guest depends on it: it is stopped, or would be stopped by a call that
// comes late.
test.each([
  'domainInfo',
  'pause',
  'unpause',
  'shutdown',
  'resume',
  'nrGpfns',
  'hvmContext',
  'hvmParam',
  'tscInfo',
])('%s is made in this thread', (method) => {
  const body = new RegExp(`^  (?:async )?${method}\\(.*?^  }$`, 'ms').exec(source)?.[0] ?? '';
  expect(body).toContain('this.#quick(');
  expect(body).not.toContain('this.#call(');
});
