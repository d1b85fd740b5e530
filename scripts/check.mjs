// Every check that needs no Xen and no QEMU, all of them even when one fails; under a minute.
import { spawnSync } from 'node:child_process';
import { ensureDependencies, root } from './dependencies.mjs';

ensureDependencies();
const bin = (name) => `node_modules/.bin/${name}`;
const steps = [
  ['format and lint', bin('biome'), ['check', '--error-on-warnings', '.']],
  ['import table', process.execPath, ['scripts/layers.mjs', '--check']],
  ['types', bin('tsc'), ['-p', '.']],
  ['build', process.execPath, ['scripts/build.mjs']],
  ['unit and property tests', process.execPath, ['scripts/vitest-project.mjs', 'unit']],
  ['docs', bin('typedoc'), ['--emit', 'none', '--logLevel', 'Warn']],
  ['package', bin('publint'), ['--strict']],
  ['subpaths', process.execPath, ['scripts/subpaths.mjs']],
  ['examples and types of the package', bin('tsc'), ['-p', 'tsconfig.package.json']],
  ['types as they are resolved', bin('attw'), ['--pack', '.', '--profile', 'esm-only', '--quiet']],
];
// attw packs; what it packs is built already.
process.env.npm_config_ignore_scripts = 'true';

const failed = [];
for (const [name, command, args] of steps) {
  const start = performance.now();
  console.error(`— ${name}`);
  const { status } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.error(`${status === 0 ? 'ok' : 'FAILED'}: ${name}, ${seconds} s`);
  if (status !== 0) failed.push(name);
}
if (failed.length > 0) {
  console.error(`failed: ${failed.join(', ')}`);
  process.exit(1);
}
