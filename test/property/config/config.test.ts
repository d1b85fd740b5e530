import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import type { DiskRequest, SnapshotConfig } from '../../../src/config/config.ts';
import { ConfigError } from '../../../src/config/errors.ts';
import { checkSnapshotName } from '../../../src/config/name.ts';
import { MAX_CONFIG_BYTES, parseConfig } from '../../../src/config/parse.ts';
import { printConfig } from '../../../src/config/print.ts';
import { CFGFILE_WORDS } from '../../support/samples.ts';

const name = fc
  .string({
    unit: fc.oneof(
      fc.constantFrom(' ', '"', "'", '\\', '#', ',', ';', '[', '1'),
      fc.string({ unit: 'binary', maxLength: 1 }),
    ),
    maxLength: 40,
  })
  .filter((text) => checkSnapshotName(text) === undefined);
const segment = fc
  .string({ unit: 'binary', minLength: 1, maxLength: 20 })
  .filter((text) => !/[\p{Cc}\p{Zl}\p{Zp}\p{Cs},/]/u.test(text));
const path = fc.array(segment, { minLength: 1, maxLength: 4 }).map((parts) => `/${parts.join('/')}`);
const diskPath = path.filter((text) => text.trimEnd() === text);
const disks: fc.Arbitrary<readonly DiskRequest[]> = fc.uniqueArray(
  fc.oneof(
    fc.record({ kind: fc.constant('internal' as const), target: fc.stringMatching(/^[a-z0-9]{1,6}$/) }),
    fc.record({
      kind: fc.constant('internal' as const),
      target: fc.stringMatching(/^[a-z0-9]{1,6}$/),
      cow: fc.oneof(
        fc.record({ bytes: fc.integer({ min: 1, max: 2 ** 40 }).map((kib) => kib * 1024) }),
        fc.record({ percent: fc.integer({ min: 1, max: 100 }) }),
      ),
    }),
    fc.record({
      kind: fc.constant('external' as const),
      target: fc.stringMatching(/^[a-z0-9]{1,6}$/),
      path: diskPath,
      format: fc.constant('qcow2'),
    }),
  ),
  { selector: (disk) => disk.target, maxLength: 6 },
);
const description = fc
  .string({
    unit: fc.oneof(fc.constantFrom('\n', '\t', '\\', '"'), fc.string({ unit: 'binary', maxLength: 1 })),
    minLength: 1,
  })
  .filter((text) => text !== '' && !/[^\P{Cc}\t\n]/u.test(text) && !/\p{Cs}/u.test(text));
const config: fc.Arbitrary<SnapshotConfig> = fc.record(
  { name, description, memoryPath: path, disks },
  { requiredKeys: [] },
);

/** Parses; passes on any error other than ConfigError. */
function taken(input: Uint8Array | string): SnapshotConfig | undefined {
  try {
    return parseConfig(input);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    expect(error.findings.length).toBeGreaterThan(0);
    return undefined;
  }
}

test.prop([config, fc.string()])('parse(print(x)) is x', (value, comment) => {
  const { source, ...back } = parseConfig(printConfig(value, comment));
  expect(source).toBe('cfgfile');
  expect(back).toEqual(value);
});

describe('any input gives a configuration or a ConfigError', () => {
  test.prop([fc.uint8Array({ maxLength: 300 })])('bytes', (bytes) => {
    taken(bytes);
  });

  const words = fc.constantFrom(...CFGFILE_WORDS);
  test.prop([fc.array(words, { maxLength: 60 })], { numRuns: 1000 })('tokens of the language', (parts) => {
    const result = taken(parts.join(''));
    if (result === undefined) return;
    expect(Object.getPrototypeOf(result)).toBe(Object.prototype);
    for (const key of Object.keys(result)) {
      expect(['name', 'description', 'memoryPath', 'disks', 'source']).toContain(key);
    }
    parseConfig(printConfig(result));
  });

  test.prop([config, fc.nat(), fc.nat(), fc.uint8Array({ maxLength: 3 })])(
    'good files, chopped and damaged',
    (value, cut, at, insert) => {
      const bytes = new TextEncoder().encode(printConfig(value, 'head'));
      taken(bytes.subarray(0, cut % (bytes.length + 1)));
      const spoilt = new Uint8Array(bytes.length + insert.length);
      const from = at % bytes.length;
      spoilt.set(bytes.subarray(0, from));
      spoilt.set(insert, from);
      spoilt.set(bytes.subarray(from), from + insert.length);
      taken(spoilt);
    },
  );
});

describe('a file of maximum size is parsed in bounded time', () => {
  test.each([
    ['words', 'a '],
    ['quotes', '"'],
    ['open strings', '"\n'],
    ['backslashes in a string', 'name="\\\\'],
    ['lists', 'disks=[],'],
    ['brackets', 'disks=['],
    ['settings', 'name="x"\n'],
    ['unknown keys', 'k=1\n'],
    ['joined texts', 'name+="x"\n'],
    ['joined lists', "disks+=['x']\n"],
    ['fields', "disks=['"],
    ['newlines', '\n'],
    ['comments', '#\n'],
    ['numbers', '1'],
    ['spaces', ' '],
  ])('%s', (_, unit) => {
    // A hang fails the test by its own time limit.
    const text = unit.repeat(MAX_CONFIG_BYTES / unit.length);
    taken(text);
    taken(`disks=['${text.replaceAll(/['\n\\]/g, ',')}']`.slice(0, MAX_CONFIG_BYTES));
    taken(`disks=[\n',,a',\n${text}`.slice(0, MAX_CONFIG_BYTES));
    taken(`name="${text.replaceAll(/["\n\\]/g, ' ')}`.slice(0, MAX_CONFIG_BYTES - 1));
  });
});
