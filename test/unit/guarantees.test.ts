import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');
const rows = readFileSync(join(root, 'docs/guarantees.md'), 'utf8')
  .split('\n')
  .flatMap((line) => {
    const [, promise, file, name] = /^\| (.+) \| `(test\/[^`]+)`: (.+) \|$/.exec(line) ?? [];
    return promise === undefined || file === undefined || name === undefined
      ? []
      : [[promise, file, name] as const];
  });

describe('docs/guarantees.md', () => {
  test('names a test for each promise', () => {
    const lines = readFileSync(join(root, 'docs/guarantees.md'), 'utf8').split('\n');
    const table = lines.filter((line) => /^\| (?!promise)/.test(line));
    expect(rows).toHaveLength(table.length);
    expect(rows.length).toBeGreaterThan(20);
  });

  test.each(rows)('%s', (_promise, file, name) => {
    const source = readFileSync(join(root, file), 'utf8');
    expect([`'${name}'`, `"${name}"`, `\`${name}\``].some((quoted) => source.includes(quoted))).toBe(true);
  });
});
