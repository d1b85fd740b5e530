// Imports each subpath of the built package by name, as a program that depends on it does, and checks that
// each has an API page.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './dependencies.mjs';

const read = (name) => JSON.parse(readFileSync(join(root, name), 'utf8'));
const { name, exports } = read('package.json');
const { entryPoints } = read('typedoc.json');
const problems = [];
for (const [subpath, target] of Object.entries(exports)) {
  if (typeof target === 'string') continue;
  const specifier = join(name, subpath);
  const names = Object.keys(await import(specifier));
  if (names.length === 0) problems.push(`${specifier} exports nothing`);
  const source = target.default.replace(/^\.\/dist\//, 'src/').replace(/\.js$/, '.ts');
  if (!entryPoints.includes(source)) problems.push(`${source} is not an entry point of typedoc.json`);
  if (!readFileSync(join(root, source), 'utf8').includes(' * @module\n'))
    problems.push(`${source} has no @module comment`);
}
for (const problem of problems) console.error(problem);
process.exit(problems.length === 0 ? 0 : 1);
