// Runs every check that needs no Xen and no QEMU, all of them even if one fails.
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { ensureDependencies, root } from './dependencies.mjs';

ensureDependencies();
const bin = (name) => `node_modules/.bin/${name}`;
const steps = [
  // First what others wait for, and what takes longest.
  { name: 'build', command: process.execPath, args: ['scripts/build.mjs', '--no-check'] },
  // From the second run on, only what has changed and what depends on it.
  {
    name: 'types',
    command: bin('tsc'),
    args: ['-p', '.', '--incremental', '--tsBuildInfoFile', '.cache/types.tsbuildinfo'],
  },
  { name: 'format and lint', command: bin('biome'), args: ['check', '--error-on-warnings', '.'] },
  { name: 'commit subjects', command: process.execPath, args: ['scripts/subjects.mjs'] },
  { name: 'import table', command: process.execPath, args: ['scripts/layers.mjs', '--check'] },
  // Another step already checks types.
  {
    name: 'docs',
    command: bin('typedoc'),
    args: ['--emit', 'none', '--logLevel', 'Warn', '--skipErrorChecking'],
  },
  { name: 'package', command: bin('publint'), args: ['--strict'], after: ['build'] },
  { name: 'subpaths', command: process.execPath, args: ['scripts/subpaths.mjs'], after: ['build'] },
  {
    name: 'examples and types of the package',
    command: bin('tsc'),
    args: ['-p', 'tsconfig.package.json'],
    after: ['build'],
  },
  {
    name: 'examples in the docs',
    command: process.execPath,
    args: ['scripts/doc-examples.mjs'],
    after: ['build'],
  },
  {
    name: 'types as they are resolved',
    command: bin('attw'),
    args: ['--pack', '.', '--profile', 'esm-only', '--quiet'],
    // Both pack.
    after: ['package'],
  },
];
// On their own: they use all cores, and some of them measure time.
const tests = {
  name: 'unit and property tests',
  command: process.execPath,
  args: ['scripts/vitest-project.mjs', 'unit'],
};
// attw packs, and what it packs is already built.
process.env.npm_config_ignore_scripts = 'true';

const failed = [];
/** Runs a step. Its output comes at its end, unless it runs on its own. */
async function run({ name, command, args }, stdio) {
  const start = performance.now();
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', stdio, stdio] });
  const said = [];
  child.stdout?.on('data', (data) => said.push(data));
  child.stderr?.on('data', (data) => said.push(data));
  const status = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  process.stderr.write(Buffer.concat(said));
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.error(`${status === 0 ? 'ok' : 'FAILED'}: ${name}, ${seconds} s`);
  if (status !== 0) failed.push(name);
}

const waiting = [...steps];
const done = new Set();
const running = new Set();
while (waiting.length + running.size > 0) {
  const at = waiting.findIndex(({ after = [] }) => after.every((name) => done.has(name)));
  if (at >= 0 && running.size < availableParallelism()) {
    const [step] = waiting.splice(at, 1);
    const job = run(step, 'pipe').then(() => {
      done.add(step.name);
      running.delete(job);
    });
    running.add(job);
  } else await Promise.race(running);
}
await run(tests, 'inherit');
if (failed.length > 0) {
  console.error(`failed: ${failed.join(', ')}`);
  process.exit(1);
}
