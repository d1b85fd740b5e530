import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

// Names and paths come from users, guests and files: none of them may ever be read by a shell.

const files = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => ({ name, text: readFileSync(join('src', name), 'utf8') }));

/** Ways to run a shell, or code made from text. */
const ANYWHERE: readonly RegExp[] = [
  /\bexec(?:Sync)?\s*\((?!text\))|\{[^}]*\bexec(?:Sync)?\b[^}]*\}\s*(?:=|from)/,
  /\beval\s*\(|new Function\s*\(|node:vm/,
];
/** Elsewhere these may be words for people. */
const WHERE_PROGRAMS_START: readonly RegExp[] = [
  /\bshell\s*:/,
  /['"`](?:\/bin\/|\/usr\/bin\/env )?(?:ba|da|z|k)?sh['"`]/,
];
const WAYS = [...ANYWHERE, ...WHERE_PROGRAMS_START];

const startsPrograms = (text: string): boolean => /child_process|\brunProgram\(/.test(text);

test('no file of src/ calls a shell', () => {
  expect(files.length).toBeGreaterThan(90);
  const found = files.flatMap(({ name, text }) =>
    text
      .split('\n')
      // A method of a regular expression is not a program.
      .filter((line) =>
        (startsPrograms(text) ? WAYS : ANYWHERE).some((way) =>
          way.test(line.replaceAll(/[\w)/]\.exec\(/g, '.match(')),
        ),
      )
      .map((line) => `${name}: ${line.trim()}`),
  );
  expect(found).toEqual([]);
});

test('programs are started in few places, and only by spawn', () => {
  const importers = files.filter(({ text }) => text.includes('child_process'));
  expect(importers.map(({ name }) => name).sort()).toEqual([
    'bench/command.ts',
    'toolstack/guardian.ts',
    'toolstack/process/run.ts',
    'toolstack/xl/restore.ts',
  ]);
  for (const { text } of importers) {
    expect(text).toMatch(/^import \{ (type ChildProcess, )?spawn \} from 'node:child_process';$/m);
  }
});

test.each([
  "import { exec } from 'node:child_process';",
  'const { execSync } = await import("child_process");',
  'execSync("rm " + path);',
  'exec("xl list");',
  "spawn('xl', args, { shell: true });",
  "spawn('sh', ['-c', text]);",
  'spawn("/bin/bash", ["-c", text]);',
  'eval(text);',
])('a shell would be noticed: %s', (line) => {
  expect(WAYS.some((way) => way.test(line))).toBe(true);
});
