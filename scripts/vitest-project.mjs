// Runs one project of vitest.config.ts. If XLSNAP_TEST_REPORT names a file, writes a JSON report to it.
import { spawnSync } from 'node:child_process';
import { root } from './dependencies.mjs';

const [, , project, ...args] = process.argv;
const file = process.env.XLSNAP_TEST_REPORT;
const report = file ? ['--reporter=verbose', '--reporter=json', `--outputFile.json=${file}`] : [];
const run = spawnSync('node_modules/.bin/vitest', ['run', '--project', project, ...args, ...report], {
  cwd: root,
  stdio: 'inherit',
});
process.exit(run.status ?? 1);
