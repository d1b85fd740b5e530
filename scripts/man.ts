/** Writes the manual pages to dist/man. Part of the build. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { processContext } from '../src/cli/context.ts';
import { makeProgram } from '../src/cli/program.ts';
import { version } from '../src/cli/version.ts';
import { commandPage, configPage } from './man/pages.ts';

const root = join(import.meta.dirname, '..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

/** Returns the date of the last commit, so that two builds of one commit are identical, or today's. */
function editionDate(): string {
  const seconds = process.env['SOURCE_DATE_EPOCH'] ?? commitTime();
  return new Date(seconds === undefined ? Date.now() : Number(seconds) * 1000).toISOString().slice(0, 10);
}

function commitTime(): string | undefined {
  try {
    return execFileSync('git', ['log', '-1', '--format=%ct'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
  } catch {
    return undefined;
  }
}

const edition = { version: version(), date: editionDate() };
const program = makeProgram(processContext(), () => {});
const directory = join(root, 'dist', 'man');
mkdirSync(directory, { recursive: true });
writeFileSync(join(directory, 'xlsnap.1'), commandPage(program, read('scripts/man/xlsnap.md'), edition));
writeFileSync(join(directory, 'xlsnap.cfg.5'), configPage(read('docs/cfgfile.md'), edition));
