/** Writes the manual pages to dist/man. Part of the build. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { processContext } from '../src/cli/context.ts';
import { makeProgram } from '../src/cli/program.ts';
import { version } from '../src/cli/version.ts';
import { editionTime } from './edition.ts';
import { commandPage, configPage } from './man/pages.ts';

const root = join(import.meta.dirname, '..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

const date = new Date(editionTime() * 1000).toISOString().slice(0, 10);
const edition = { version: version(), date };
const program = makeProgram(processContext(), () => {});
const directory = join(root, 'dist', 'man');
mkdirSync(directory, { recursive: true });
writeFileSync(join(directory, 'xlsnap.1'), commandPage(program, read('scripts/man/xlsnap.md'), edition));
writeFileSync(join(directory, 'xlsnap.cfg.5'), configPage(read('docs/cfgfile.md'), edition));
