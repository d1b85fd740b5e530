import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { failureLines, type Report, slowestFiles } from '../../scripts/report.ts';
import { tempDir } from '../support/temp.ts';

test('each failed test is reported in one line, and the slowest files, from a report of vitest’s', async () => {
  await using directory = await tempDir();
  const file = (name: string, text: string): void => writeFileSync(join(directory.path, name), text);
  const lines = [
    `import { describe, expect, test } from ${JSON.stringify(resolve('node_modules/vitest/dist/index.js'))};`,
  ];
  lines.push(`test('good', () => {});`, `test.skip('left out', () => {});`);
  lines.push(`describe('outer', () => test('sum', () => expect(1 + 1).toBe(3)));`);
  lines.push(`test('words', () => { throw new Error('it failed\\nqemu-img: no room\\n\\nthree\\nfour'); });`);
  file('a.test.js', lines.join('\n'));
  file('b.test.js', 'throw new Error("no such thing");');
  file('vitest.config.js', 'export default { test: { include: ["*.test.js"] } };');
  mkdirSync(join(directory.path, 'out'));
  const report = join(directory.path, 'out', 'report.json');
  const vitest = [resolve('node_modules/vitest/vitest.mjs'), 'run', '--root', directory.path];
  const { status } = spawnSync(
    process.execPath,
    [...vitest, '--reporter=json', `--outputFile.json=${report}`],
    { cwd: directory.path, stdio: 'ignore' },
  );
  expect(status).toBe(1);
  const json = JSON.parse(readFileSync(report, 'utf8')) as Report;
  const told = failureLines(json, directory.path);
  expect(told.sort()).toEqual([
    'a.test.js > outer sum: AssertionError: expected 2 to be 3 // Object.is equality',
    'a.test.js > words: Error: it failed | qemu-img: no room | three',
    'b.test.js: no such thing',
  ]);
  expect(slowestFiles(json, directory.path, 5).sort()).toEqual(['a.test.js 0 s', 'b.test.js 0 s']);
  const [first] = json.testResults;
  if (first === undefined) throw new Error('no file');
  const late = { ...first, name: `${directory.path}/late.js`, endTime: first.startTime + 61_234 };
  const longer = { ...json, testResults: [...json.testResults, late] };
  expect(slowestFiles(longer, directory.path, 1)).toEqual(['late.js 61 s']);
});
