// Tests create and revert, paused and live, on another release of Xen: node scripts/test-xen.mjs RELEASE
import { spawnSync } from 'node:child_process';
import { ensureDependencies } from './dependencies.mjs';

ensureDependencies();
const [, , release, ...args] = process.argv;
if (release === undefined) {
  console.error('usage: node scripts/test-xen.mjs RELEASE');
  process.exit(2);
}
const { status } = spawnSync(
  process.execPath,
  ['scripts/vitest-project.mjs', 'lab', 'test/lab/snapshot.test.ts', ...args],
  { stdio: 'inherit', env: { ...process.env, XLSNAP_LAB_XEN: release } },
);
process.exit(status ?? 1);
