// Joins modules that are imported on demand in groups, for esbuild, which makes a file, or several, of each module
// that is imported in this way.
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';

const NAMESPACE = 'group';
const ON_DEMAND = /\bimport\('(\.[^']+)'\)/g;
const EXPORTED = /^export (?:async )?(?:function\*?|class|const|let) (\w+)/gm;

/**
 * Returns a plugin that has each `import()` of a relative path import its whole group.
 * @param directory where to look for such imports
 * @param named paths, seen from there, of each group; all others are one more
 */
export function inGroups(directory, named) {
  const others = new Set(
    readdirSync(directory, { recursive: true }).flatMap((file) => onDemand(directory, file)),
  );
  const groups = {};
  const groupOf = new Map();
  const add = (name, paths) => {
    groups[name] = paths;
    for (const path of paths) groupOf.set(path, name);
  };
  for (const [name, paths] of Object.entries(named)) {
    add(
      name,
      paths.map((path) => resolve(directory, path)),
    );
    for (const path of groups[name])
      if (!others.delete(path)) throw new Error(`${path} is not imported on demand`);
  }
  add('others', [...others]);
  return {
    name: 'groups',
    setup(build) {
      build.onResolve({ filter: /^\./ }, ({ kind, path, resolveDir }) => {
        if (kind !== 'dynamic-import') return undefined;
        return { path: groupOf.get(resolve(resolveDir, path)), namespace: NAMESPACE };
      });
      build.onLoad({ filter: /.*/, namespace: NAMESPACE }, ({ path }) => ({
        contents: exportAll(groups[path], directory),
        resolveDir: directory,
      }));
    },
  };
}

/** The modules that a file imports on demand, as absolute paths. */
function onDemand(directory, file) {
  if (!file.endsWith('.ts')) return [];
  const text = readFileSync(join(directory, file), 'utf8');
  return [...text.matchAll(ON_DEMAND)].map(([, path]) => resolve(directory, file, '..', path));
}

/** A module that exports what others do; a name that two of them export would be lost without a word. */
function exportAll(paths, directory) {
  const from = new Map();
  for (const path of paths) {
    for (const [, name] of readFileSync(path, 'utf8').matchAll(EXPORTED)) {
      if (from.has(name)) throw new Error(`${path} and ${from.get(name)} both export ${name}`);
      from.set(name, path);
    }
  }
  return paths.map((path) => `export * from './${relative(directory, path)}';`).join('\n');
}
