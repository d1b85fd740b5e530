import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import {
  foldText,
  formatBytes,
  formatClock,
  formatSeconds,
  indentedTable,
  jsonLine,
  plural,
  printable,
  snakeKeys,
  table,
  tableOrBlocks,
  wrapText,
} from '../../../src/cli/text.ts';
import { shellQuote } from '../../../src/core/shell-quote.ts';

test('formats sizes and times', () => {
  expect([0, 9.54 * 2 ** 20, 512 * 2 ** 20, 12 * 2 ** 30].map(formatBytes)).toEqual([
    '0.0 MiB',
    '9.5 MiB',
    '512 MiB',
    '12.0 GiB',
  ]);
  expect([0.0004, 0.34, 0.9996, 59.9, 73.4].map(formatSeconds)).toEqual([
    '0 ms',
    '340 ms',
    '1.0 s',
    '59.9 s',
    '73 s',
  ]);
  expect([0, 6.2, 750, 3723].map(formatClock)).toEqual(['0:00', '0:07', '12:30', '1:02:03']);
});

test.each(['plain', '/a/b-c.cfg', '', 'a b', "it's", '$HOME', '*', 'a\nb', '~', '"', '\\', '!x', "''"])(
  'the shell returns %j unchanged',
  (word) => {
    const { stdout } = spawnSync('sh', ['-c', `printf %s ${shellQuote(word)}`], { encoding: 'utf8' });
    expect(stdout).toBe(word);
  },
);

test('printable keeps only newlines and printable characters', () => {
  expect(printable('é\n\x1b[1m\r\t\x9b\u202eA')).toBe('é\n?[1m????A');
});

test('snakeKeys', () => {
  expect(snakeKeys({ aBc: [{ cdEf: 1, x: undefined }], d: null })).toEqual({
    a_bc: [{ cd_ef: 1, x: undefined }],
    d: null,
  });
  // Keys that are data: a page's type, a key of libxl's.
  expect(snakeKeys({ NOTAB: 1, b_info: 2 })).toEqual({ NOTAB: 1, b_info: 2 });
});

test('a line of JSON has nothing that controls a terminal, and says the same', () => {
  const name = 'a\x1b[1m\x7f\x9b31m\u202eb\u2028c é';
  const line = jsonLine('log', { name });
  expect(printable(line)).toBe(line);
  expect(JSON.parse(line)).toEqual({ message_type: 'log', name });
});

test('plural', () => {
  expect([0, 1, 2].map((n) => plural(n, 'round'))).toEqual(['0 rounds', '1 round', '2 rounds']);
});

test('fractions in JSON are rounded to millionths', () => {
  const fields = {
    seconds: 0.005206890999999928,
    tiny: 0.00008735999999998966,
    whole: 2 ** 53 - 1,
    share: 1.5,
  };
  expect(JSON.parse(jsonLine('x', fields))).toEqual({
    message_type: 'x',
    seconds: 0.005207,
    tiny: 0.000087,
    whole: 2 ** 53 - 1,
    share: 1.5,
  });
});

describe('text in a terminal', () => {
  const text = 'error: the first line is long\n  - and so is the second\nshort';

  test('is broken between words, with further lines indented', () => {
    expect(wrapText(text, 24).split('\n')).toEqual([
      'error: the first line',
      '  is long',
      // As wide as the terminal.
      '  - and so is the second',
      'short',
    ]);
  });

  test('a path longer than the line stays whole, so that it can be copied', () => {
    const path = '/var/lib/xen/snapshots/5d3f1111/before.save';
    expect(wrapText(`error: ${path} is there`, 30).split('\n')).toContain(`  ${path}`);
  });

  test('is unchanged in a pipe', () => {
    expect(wrapText(text, undefined)).toBe(text);
  });
});

describe('on a narrow terminal', () => {
  test('lines are folded between words, but a command stays whole', () => {
    const command = 'To revert: xlsnap snapshot-revert guest1 /a/path/that/is/long.cfg';
    expect(foldText(`  memory: some words that do not fit\n${command}\nshort`, 24)).toBe(
      `  memory: some words\n    that do not fit\n${command}\nshort`,
    );
    expect(foldText('a b', undefined)).toBe('a b');
    // As wide as the terminal is not too wide.
    expect(wrapText('twenty-one characters', 21)).toBe('twenty-one characters');
  });

  test('a table that is too wide gets a line for each cell', () => {
    const rows = [
      ['path', 'seconds', ''],
      ['xl-save', '2.15', '####'],
      ['live', '', '#'],
    ];
    expect(tableOrBlocks(rows, 22)).toEqual(table(rows));
    expect(tableOrBlocks(rows, 21)).toEqual(['xl-save', '  seconds: 2.15', '  ####', 'live', '  #']);
    expect(indentedTable(rows, 23)[0]).toBe('  xl-save');
  });
});
