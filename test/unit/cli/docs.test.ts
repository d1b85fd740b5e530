import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { EXIT_MEANINGS } from '../../../src/cli/exit-codes.ts';
import { parseConfig } from '../../../src/config/parse.ts';
import { EXIT } from '../../../src/core/errors.ts';
import { RISKS } from '../../../src/snapshot/risks.ts';
import { documentedKeys, program, xlsnap } from './support.ts';

const root = join(import.meta.dirname, '../../..');
const read = (name: string): string => readFileSync(join(root, name), 'utf8');
/** All Markdown files for users. */
const documents = [
  'README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' }).flatMap((name) =>
    name.endsWith('.md') ? [`docs/${name}`] : [],
  ),
];
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

  test('has existing codes only, and those that a script may need', () => {
    const section = scripting.split('\n### Codes\n')[1]?.split(/\n##/)[0] ?? '';
    const listed = [...section.matchAll(/^\| (`[A-Z0-9_`, ]+) \|/gm)].flatMap(([, cell = '']) =>
      [...cell.matchAll(/`([A-Z0-9_]+)`/g)].map(([, code]) => code),
    );
    const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts') && !/^testing|testing\.ts$/.test(name))
      .map((name) => read(`src/${name}`))
      .join('\n');
    expect(listed.filter((code) => !sources.includes(`'${code}'`))).toEqual([]);
    expect(listed).toEqual(
      expect.arrayContaining(['QEMU_DIED', 'IMAGE_FORMAT', 'IMAGE_IN_USE', 'IMAGE_BUSY']),
    );
  });

  test('lists every risk of a revert with its meaning', () => {
    const section = scripting.split('\n## When a revert is risky\n')[1]?.split('\n## ')[0] ?? '';
    const rows = [...section.matchAll(/^\| `([a-z-]+)` \| ([^|]*) \|$/gm)].map(([, ...row]) => row);
    expect(rows).toEqual(Object.entries(RISKS));
  });

  test.each([
    ['create_plan', ['snapshot-create', 'a', '--dry-run', '--json']],
    ['create_result', ['snapshot-create', 'a', '--json']],
    ['snapshot_list', ['snapshot-list', '--json']],
    ['bench_result', ['bench', 'a', '--json']],
    ['revert_plan', ['snapshot-revert', 'a', '/dev/null', '--dry-run', '--json']],
    ['revert_result', ['snapshot-revert', 'a', '/dev/null', '--json']],
    ['delete_plan', ['snapshot-delete', 'a', 'b', '--dry-run', '--json']],
    ['delete_result', ['snapshot-delete', 'a', 'b', '--json']],
    ['recover_result', ['recover', '--json']],
  ])('has the keys of %s, and no others', async (type, args) => {
    const { message_type, ...message } = JSON.parse((await xlsnap(args)).stdout) as Record<string, unknown>;
    expect(message_type).toBe(type);
    expect(documentedKeys(type)).toEqual(Object.keys(message));
  });
});

describe('every key that is printed, at any depth, is described in docs/scripting.md', () => {
  const words = new Set([...scripting.matchAll(/`(\w+)`/g)].map(([, word]) => word));

  test.each([
    ['snapshot-create', 'a', '--dry-run', '--json'],
    ['snapshot-create', 'a', '--json'],
    ['snapshot-revert', 'a', '/dev/null', '--dry-run', '--json'],
    ['snapshot-revert', 'a', '/dev/null', '--json'],
    ['snapshot-create', 'a', '--json', '--name', '1'],
    ['recover', '--json'],
    ['snapshot-list', '--json'],
    ['snapshot-delete', 'a', 'b', '--dry-run', '--json'],
    ['snapshot-delete', 'a', 'b', '--json'],
    ['doctor', '--json'],
  ])('%s %s %s', async (...args) => {
    const { stdout, stderr } = await xlsnap(args);
    const lines = `${stdout}${stderr}`.trim().split('\n');
    const keys = new Set(lines.flatMap((line) => keysOf(JSON.parse(line))));
    expect(keys.size).toBeGreaterThan(4);
    expect([...keys].filter((key) => !words.has(key))).toEqual([]);
  });
});

function keysOf(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(keysOf);
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [key, ...keysOf(inner)]);
}

test('the cfgfiles that are shown are valid', () => {
  for (const name of ['docs/cfgfile.md', 'README.md']) {
    const [shown] = /(?:^ {4}.*\n)*^ {4}memory_path=.*\n(?:^ {4}.*\n)*/m.exec(read(name)) ?? [];
    expect(parseConfig(shown ?? '').disks).toMatchObject([{ kind: 'external' }, { kind: 'internal' }]);
  }
});

test('the error that is shown is the real one', () => {
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

test.each(documents)('links have a target: %s', (name) => {
  const links = [...read(name).matchAll(/\]\(([^)#:]+)\)/g)].map(([, link]) => link ?? '');
  if (name === 'README.md') expect(links.length).toBeGreaterThan(4);
  for (const link of links) expect(read(join(dirname(name), link)).length).toBeGreaterThan(0);
});

test.each(documents)('commands of xlsnap that are shown have existing options: %s', (name) => {
  const commands = new Map(program().commands.map((command) => [command.name(), command]));
  const shown = [...read(name).matchAll(/(?:^|[#`( ])xlsnap ([a-z][a-z-]+)([^`\n]*)/gm)];
  for (const [line, command = '', rest = ''] of shown) {
    const definition = commands.get(command);
    if (definition === undefined) continue;
    const known = definition.options.map(({ long }) => long);
    const used = [...rest.matchAll(/(?<= )--[a-z-]+/g)].map(([option]) => option);
    expect(
      used.filter((option) => !known.includes(option) && option !== '--help'),
      line,
    ).toEqual([]);
  }
});
