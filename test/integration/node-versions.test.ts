/** The built package under each Node that package.json promises, from the npm registry's package `node`. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';

const MAJORS = [18, 20, 22, 24];
const root = join(import.meta.dirname, '../..');
const SETUP_MS = 600_000;

/** Installs a Node once, below `.cache`. @returns its program, or why there is none */
function install(major: number): { readonly program: string } | { readonly obstacle: string } {
  const directory = join(root, '.cache/node', String(major));
  const program = join(directory, 'node_modules/node/bin/node');
  if (existsSync(program)) return { program };
  mkdirSync(directory, { recursive: true });
  const { status, stderr, error } = spawnSync(
    'npm',
    [
      'install',
      '--prefix',
      directory,
      '--no-save',
      '--no-audit',
      '--no-fund',
      '--loglevel=error',
      `node@${major}`,
    ],
    { cwd: directory, encoding: 'utf8' },
  );
  if (existsSync(program)) return { program };
  return { obstacle: `npm install node@${major}: ${error ?? stderr.trim()} (status ${status})` };
}

beforeAll(() => {
  const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs', '--no-check'], {
    cwd: root,
    encoding: 'utf8',
  });
  expect(status, stderr).toBe(0);
}, SETUP_MS);

test.for(MAJORS)(
  'Node %i creates, reverts, verifies, inspects and calls C',
  { timeout: SETUP_MS },
  (major, { skip }) => {
    const found = install(major);
    if ('obstacle' in found) {
      console.warn(`skipped: ${found.obstacle}`);
      return skip(found.obstacle);
    }
    const { status, stdout, stderr } = spawnSync(found.program, ['--test', 'test/smoke/smoke.test.mjs'], {
      cwd: root,
      encoding: 'utf8',
      // Node refuses to run tests in a test of its own.
      env: { ...process.env, NODE_TEST_CONTEXT: undefined },
    });
    expect(status, stdout + stderr).toBe(0);
    expect(spawnSync(found.program, ['--version'], { encoding: 'utf8' }).stdout).toMatch(`v${major}.`);
  },
);
