// Tests create and revert, paused and live, on another Xen:
//   node scripts/test-xen.mjs 4.17        a release of Debian's, and the Debian package there
//   node scripts/test-xen.mjs DIRECTORY   an installed tree of Xen, and superpages there
import { spawnSync } from 'node:child_process';
import { ensureDependencies } from './dependencies.mjs';

ensureDependencies();
const [, , xen, ...args] = process.argv;
if (xen === undefined) {
  console.error('usage: node scripts/test-xen.mjs RELEASE|DIRECTORY');
  process.exit(2);
}
const release = /^\d+\.\d+$/.test(xen);
const { status } = spawnSync(
  process.execPath,
  [
    'scripts/vitest-project.mjs',
    'lab',
    'test/lab/snapshot.test.ts',
    release ? 'test/lab/deb.test.ts' : 'test/lab/superpages.test.ts',
    ...args,
  ],
  {
    stdio: 'inherit',
    env: { ...process.env, [release ? 'XLSNAP_LAB_XEN' : 'XLSNAP_LAB_XEN_TREE']: xen },
  },
);
process.exit(status ?? 1);
