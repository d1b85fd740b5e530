import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { commandPage, configPage } from '../../scripts/man/pages.ts';
import { Roff } from '../../scripts/man/roff.ts';
import { EXIT } from '../../src/core/errors.ts';
import { tempDir } from '../support/temp.ts';
import { program } from './cli/support.ts';

const root = join(import.meta.dirname, '../..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const edition = { version: '1.2.3', date: '2026-11-23' };
const prose = read('scripts/man/xlsnap.md');
const pages = {
  'xlsnap.1': commandPage(program(), prose, edition),
  'xlsnap.cfg.5': configPage(read('docs/cfgfile.md'), edition),
};

/** Returns the text as a reader sees it, without the markup of hyphens. */
const plain = (page: string): string => page.replaceAll(/\\f[BIR]/g, '').replaceAll('\\-', '-');

describe('xlsnap(1)', () => {
  test('has every command, every visible option, every example, and every exit code', () => {
    const text = plain(pages['xlsnap.1']);
    for (const command of program().commands) {
      expect(text).toContain(`.SS "xlsnap ${command.name()}"`);
      for (const { long, hidden, flags } of command.options) {
        expect(text.includes(`\n${flags.replaceAll(/[<>]/g, '')}\n`), `${command.name()} ${long}`).toBe(
          !hidden,
        );
      }
    }
    for (const code of Object.values(EXIT)) expect(text).toContain(`.TP\n${code}\n`);
    expect(text).toContain('.TP\nxlsnap snapshot-create guest1 --live\n');
  });

  test('has a new option and a new command automatically', () => {
    const changed = program();
    changed
      .command('frobnicate')
      .description('does it')
      .argument('<domain>', 'which')
      .option('--grit <n>', 'how rough')
      .addExamples(['xlsnap frobnicate g', 'roughly']);
    const text = plain(commandPage(changed, prose, edition));
    expect(text).toContain(
      '.SS "xlsnap frobnicate"\ndoes it\n.TP\ndomain\nwhich\n.TP\n--grit n\nhow rough\n',
    );
    expect(text).toContain('.TP\nxlsnap frobnicate g\nroughly\n');
  });
});

test('xlsnap.cfg(5) has every section of docs/cfgfile.md', () => {
  for (const [, heading = ''] of read('docs/cfgfile.md').matchAll(/^## (.*)$/gm)) {
    expect(pages['xlsnap.cfg.5']).toContain(`.SH "${heading.toUpperCase()}"`);
  }
});

test('text that would be taken for markup is escaped', () => {
  const page = new Roff('t', 1, { date: '2026-01-01', source: 's', manual: 'm' })
    .paragraph('.so /etc/passwd')
    .code("'quoted\n.PP\na\\b -x")
    .markdown('`.` and `\\n`\n\n* one\n* two [link](https://x.org/) and [file](a.md)')
    .toString();
  expect(page).toContain('\n\\&.so /etc/passwd\n');
  expect(page).toContain('.EX\n\\(aqquoted\n\\&.PP\na\\eb \\-x\n.EE');
  expect(page).toContain('\\fB.\\fR and \\fB\\en\\fR');
  expect(page).toContain('.IP \\(bu 2\ntwo link (https://x.org/) and file\n');
  expect(() => new Roff('t', 1, { date: '', source: '', manual: '' }).markdown('> quoted')).toThrow(
    'blockquote',
  );
});

test('package.json names the pages that the build writes', () => {
  const { man } = JSON.parse(read('package.json')) as { man: string[] };
  expect(man).toEqual(Object.keys(pages).map((name) => `dist/man/${name}`));
});

test.skipIf(spawnSync('mandoc', ['/dev/null']).error !== undefined)(
  "mandoc's lint finds nothing (skipped: no mandoc here)",
  async () => {
    await using directory = await tempDir();
    for (const [name, page] of Object.entries(pages)) {
      const file = join(directory.path, name);
      writeFileSync(file, page);
      const { stdout, stderr, status } = spawnSync('mandoc', ['-T', 'lint', file], { encoding: 'utf8' });
      expect({ stdout, stderr, status }).toEqual({ stdout: '', stderr: '', status: 0 });
    }
  },
);
