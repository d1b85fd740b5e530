/** Keeps words out that read as if they were translated. The word list for people is in CONTRIBUTING.md. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';

interface Word {
  readonly pattern: RegExp;
  /** Left and right column of the table in CONTRIBUTING.md. */
  readonly not: string;
  readonly write: string;
  readonly why: string;
}

const WORDS: readonly Word[] = [
  {
    pattern: /\boctets?\b/i,
    not: 'octet',
    write: 'byte',
    why: 'byte is the usual word outside network standards',
  },
  { pattern: /\banew\b/i, not: 'anew', write: 'again, from scratch; restarted', why: 'literary' },
  {
    pattern: /\bsomebody\b/i,
    not: 'somebody',
    write: 'someone, another program',
    why: 'it is nearly always a program, so name it',
  },
  {
    pattern: /\b(?:is|are|was|were|be|been|being) told\b/i,
    not: 'is told',
    write: 'is reported, is informed',
    why: 'only people are told things',
  },
  {
    pattern: /\b(?:stands?|stood|standing) against\b/i,
    not: 'stands against',
    write: 'prevents, blocks',
    why: 'does not say that the operation is impossible',
  },
  {
    pattern: /\b(?:go|goes|going|went|gone) on with\b/i,
    not: 'goes on with, gone on with',
    write: 'continues with, continues on',
    why: '"goes on" is vague, and "goes on with" is colloquial',
  },
  {
    pattern: /\b(?:guest|domain) goes on\b|\blets? (?:the|a) (?:guest|domain) go on\b/i,
    not: 'guest goes on, lets the guest go on',
    write: 'the guest resumes, keeps running; resumes the guest',
    why: 'does not say whether it was stopped before',
  },
  {
    pattern: /\b(?:taken|takes?|took|taking) back\b/i,
    not: 'taken back, takes back',
    write: 'undone, undoes',
    why: 'one word for one thing: undo',
  },
  {
    pattern: /\bmeanwhile\b/i,
    not: 'meanwhile',
    write: 'in the meantime; while …',
    why: 'leaves open while what',
  },
  { pattern: /\bwhat of\b/i, not: 'what of', write: 'the part of … that …', why: 'not English in this use' },
  {
    pattern: /, say(?:[,.;:)]|$)/im,
    not: '…, say,',
    write: 'for example, such as',
    why: 'reads as the verb at first',
  },
  {
    pattern: /\bunless given\b/i,
    not: 'N unless given',
    write: 'Default: N',
    why: 'every manual says default',
  },
  {
    pattern: /\bturned round\b/i,
    not: 'turned round (of a bit)',
    write: 'flipped',
    why: 'bits flip',
  },
  { pattern: /\bmend(?:s|ed|ing)?\b/i, not: 'mend', write: 'fix', why: 'software is fixed' },
];

/** Folders whose code is checked too, comments and titles of tests included. */
const CODE_FOLDERS: readonly string[] = ['src', 'test', 'lab', 'scripts'];
const CODE = /\.(?:ts|mjs|sh|c)$/;

/** Files that may use the words. */
const EXEMPT: Readonly<Record<string, string>> = {
  'CHANGELOG.md': 'history is not rewritten',
  'test/unit/words.test.ts': 'has the list',
};

/** Text that is quoted unchanged: file and quotation. */
const QUOTED: readonly (readonly [file: string, quotation: string])[] = [
  // Names of parameters and variables.
  ['src/cli/signals.ts', 'say: (message'],
  ['lab/lab.ts', "'copying', say, "],
  ['lab/lab.ts', 'what, say, job'],
  ['test/unit/lab/lock.test.ts', "'a job', say, "],
  ['test/unit/lab/lock.test.ts', "'mine', say, "],
];

const root = join(import.meta.dirname, '../..');
const NOT_OURS = new Set(['node_modules', 'dist', 'coverage', 'api']);

function filesBelow(folder: string, wanted: RegExp): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory())
      return entry.name.startsWith('.') || NOT_OURS.has(entry.name) ? [] : filesBelow(path, wanted);
    return entry.isFile() && wanted.test(entry.name) ? [path] : [];
  });
}

const files = [...filesBelow('', /\.md$/), ...CODE_FOLDERS.flatMap((folder) => filesBelow(folder, CODE))]
  .filter((file) => !Object.hasOwn(EXEMPT, file))
  .sort();

/** Returns the text of a file without quotations, with the same number of lines. */
function ownWords(file: string): string {
  const text = QUOTED.filter(([where]) => where === file).reduce(
    (rest, [, quotation]) => rest.replaceAll(quotation, ''),
    readFileSync(join(root, file), 'utf8'),
  );
  if (file === 'CONTRIBUTING.md') return text.replaceAll(/^\|.*$/gm, '');
  // Names of tests are quoted unchanged; they are checked in the test.
  if (file === 'docs/guarantees.md') return text.replaceAll(/`test\/[^`]+`: .*$/gm, '');
  return text;
}

/** `docs/x.md:7: octet → byte` for each line with such a word. */
function findWords(file: string, text: string): string[] {
  return text
    .split('\n')
    .flatMap((line, at) =>
      WORDS.filter(({ pattern }) => pattern.test(line)).map(
        ({ not, write, why }) => `${file}:${at + 1}: ${not} → ${write} (${why}): ${line.trim()}`,
      ),
    );
}

describe('words that read as translated', () => {
  test.each(files)('%s has no such words', (file) => {
    expect(findWords(file, ownWords(file))).toEqual([]);
  });

  test.each(WORDS.map(({ not, write }) => [not, write]))('CONTRIBUTING.md lists "%s"', (not, write) => {
    expect(readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8')).toContain(`| ${not} | ${write} |`);
  });

  test('are found wherever they are in a line', () => {
    const text =
      'Octets,\nbegun anew\nthe error is told.\nIt\nwhat stands against it\nto be gone on with\nroot, say.';
    expect(findWords('x', text).map((line) => line.split(' →')[0])).toEqual([
      'x:1: octet',
      'x:2: anew',
      'x:3: is told',
      'x:5: stands against',
      'x:6: goes on with, gone on with',
      'x:7: …, say,',
    ]);
  });

  test('exempt files and quotations exist', () => {
    const missing = [...Object.keys(EXEMPT).map((file) => [file, ''] as const), ...QUOTED].filter(
      ([file, quotation]) => !readFileSync(join(root, file), 'utf8').includes(quotation),
    );
    expect(missing).toEqual([]);
  });
});
