// Runs a TypeScript file of this repository: `node scripts/run.mjs FILE ARG...`. On a fresh clone it installs
// the dependencies first, so that any npm script works as the first command.
import { spawnSync } from 'node:child_process';
import { ensureDependencies } from './dependencies.mjs';

ensureDependencies();
const [, , file, ...args] = process.argv;
if (file === undefined) {
  console.error('usage: node scripts/run.mjs FILE.ts ARG...');
  process.exit(2);
}
const tsx = import.meta.resolve('tsx');
const child = spawnSync(process.execPath, ['--import', tsx, file, ...args], { stdio: 'inherit' });
if (child.error) throw child.error;
if (child.signal) process.kill(process.pid, child.signal);
process.exit(child.status ?? 1);
