/** Node of other major versions, from the npm registry's package `node`. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');

/** Installs a Node once, below `.cache`. @returns its program, or why there is none */
export function installNode(major: number): { readonly program: string } | { readonly obstacle: string } {
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
