import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { EXIT_MEANINGS } from '../../../src/cli/exit-codes.ts';
import { parseConfig } from '../../../src/config/parse.ts';
import { EXIT } from '../../../src/core/errors.ts';
import { documentedKeys, xlsnap } from './support.ts';

const root = join(import.meta.dirname, '../../..');
const read = (name: string): string => readFileSync(join(root, name), 'utf8');
const scripting = read('docs/scripting.md');

describe('docs/scripting.md', () => {
  test('has the table of exit codes', () => {
    const rows = [...scripting.matchAll(/^\| (\d+) \| (\w+) \| (.*) \|$/gm)].map(([, ...row]) => row);
    expect(rows).toEqual(
      Object.entries(EXIT).map(([name, code]) => [
        String(code),
        name,
        EXIT_MEANINGS[name as keyof typeof EXIT],
      ]),
    );
  });

  test.each([
    ['create_plan', ['snapshot-create', 'a', '--dry-run', '--json']],
    ['create_result', ['snapshot-create', 'a', '--json']],
    ['revert_plan', ['snapshot-revert', 'a', '/dev/null', '--dry-run', '--json']],
    ['revert_result', ['snapshot-revert', 'a', '/dev/null', '--json']],
  ])('has the keys of %s, and no others', async (type, args) => {
    const { message_type, ...message } = JSON.parse((await xlsnap(args)).stdout) as Record<string, unknown>;
    expect(message_type).toBe(type);
    expect(documentedKeys(type)).toEqual(Object.keys(message));
  });
});

test('the cfgfiles that are shown are good', () => {
  for (const name of ['docs/cfgfile.md', 'README.md']) {
    const [shown] = /(?:^ {4}.*\n)*^ {4}memory_path=.*\n(?:^ {4}.*\n)*/m.exec(read(name)) ?? [];
    expect(parseConfig(shown ?? '').disks).toMatchObject([{ kind: 'external' }, { kind: 'internal' }]);
  }
});

test('the error that is shown is the one that comes', () => {
  const [shown] = /^ {4}error: snap\.cfg(?:.*\n)*/m.exec(read('docs/cfgfile.md')) ?? [];
  const input = `\n\nmemroy_path="/srv/snapshots/guest1.save"`;
  expect(() => parseConfig(input, 'snap.cfg')).toThrow(
    (shown ?? '')
      .replaceAll(/^ {4}(error: )?/gm, '')
      .split('\n')
      .slice(0, 3)
      .join('\n'),
  );
});

test('links of the README lead somewhere', () => {
  const links = [...read('README.md').matchAll(/\]\(([^)#:]+)\)/g)].map(([, link]) => link ?? '');
  expect(links.length).toBeGreaterThan(4);
  for (const link of links) expect(read(link).length).toBeGreaterThan(0);
});
