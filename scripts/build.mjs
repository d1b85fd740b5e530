// Compiles src/ to dist/, with declarations: the library module by module, the command line to few files,
// since Node takes a third of a millisecond to find each. Then makes the manual pages. With --no-check, types are
// not checked: another step does that.
import { spawnSync } from 'node:child_process';
import { chmodSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ensureDependencies, root } from './dependencies.mjs';
import { inGroups } from './groups.mjs';

ensureDependencies();
const dist = join(root, 'dist');
rmSync(dist, { recursive: true, force: true });
const check = process.argv.includes('--no-check') ? ['--noCheck'] : [];
const tsc = spawnSync('node_modules/.bin/tsc', ['-p', 'tsconfig.build.json', ...check], {
  cwd: root,
  stdio: 'inherit',
});
if (tsc.status !== 0) process.exit(tsc.status ?? 1);
rmSync(join(dist, 'cli'), { recursive: true });
const { build } = await import('esbuild');
await build({
  absWorkingDir: root,
  // The guardian's program is beside the code that starts it: here, and in toolstack/ for users of the
  // library.
  entryPoints: { main: 'src/cli/main.ts', 'guardian-main': 'src/toolstack/guardian-main.ts' },
  outdir: 'dist/cli',
  bundle: true,
  // Code that only some commands need is loaded when it is needed, all that a create needs at once.
  splitting: true,
  plugins: [
    inGroups(join(root, 'src/cli'), {
      start: ['start.ts'],
      create: ['commands/snapshot-create.ts', '../snapshot/create/create.ts', '../toolstack/host.ts'],
    }),
  ],
  packages: 'external',
  platform: 'node',
  format: 'esm',
  target: 'node18',
  logLevel: 'warning',
});
chmodSync(join(dist, 'cli', 'main.js'), 0o755);
const man = spawnSync(process.execPath, ['scripts/run.mjs', 'scripts/man.ts'], {
  cwd: root,
  stdio: 'inherit',
});
process.exit(man.status ?? 1);
