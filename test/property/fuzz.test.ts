import { describe, expect, test } from 'vitest';
import { bytes, mutate, Random } from '../fuzz/mutate.ts';
import { checkPrototypes, type TargetName, targets } from '../fuzz/targets.ts';

// Does for a second what `npm run fuzz` does for hours, with the same inputs in each run of the tests.

const RUNS = 300;
const names = Object.keys(targets) as TargetName[];

test.each(names)('mutated input of %s returns a value, or throws a typed error', async (name) => {
  const target = targets[name];
  for (let run = 0; run < RUNS; run++) {
    const random = new Random(4711, run);
    const input = mutate(random, target);
    try {
      await target.run(input, random);
      checkPrototypes();
    } catch (cause) {
      throw new Error(`npm run fuzz -- --target ${name} --seed 4711 --from ${run} --runs 1`, { cause });
    }
  }
});

test.each(names)('good input of %s passes', async (name) => {
  const target = targets[name];
  for (const seed of target.seeds) await target.run(seed, new Random(1, 1));
});

// Every byte of the head; for text, that is everything.
test.each(names)(
  'input of %s cut off at every byte returns a value, or throws a typed error',
  async (name) => {
    const target = targets[name];
    const [seed = new Uint8Array(0)] = [...target.seeds]
      .sort((a, b) => b.length - a.length)
      .filter(({ length }) => length < 20_000);
    for (let end = 0; end < seed.length; end += end < target.head ? 1 : 31) {
      await target.run(seed.subarray(0, end), new Random(end, 1));
    }
  },
);

/** Yields every place in a value, as the keys that lead there. */
function places(value: unknown, at: readonly string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [[...at]];
  return [[...at], ...Object.entries(value).flatMap(([key, inner]) => places(inner, [...at, key]))];
}

function withSpoilt(value: unknown, [key, ...rest]: readonly string[], bad: unknown): unknown {
  if (key === undefined) return bad;
  const copy = structuredClone(value) as Record<string, unknown>;
  const inner = withSpoilt(copy[key], rest, bad);
  if (inner === undefined && !Array.isArray(copy)) delete copy[key];
  else copy[key] = inner ?? null;
  return copy;
}

const BAD = [
  undefined,
  null,
  true,
  -1,
  1.5,
  2 ** 53,
  '',
  'x',
  'x'.repeat(300),
  [],
  [[]],
  {},
  [null],
  { a: {} },
];

test.each(['manifest', 'qmp', 'xl-list'] as const)(
  'input of %s with one damaged field returns a value, or throws a typed error',
  async (name) => {
    const target = targets[name];
    let count = 0;
    for (const seed of target.seeds) {
      for (const line of name === 'qmp' ? Buffer.from(seed).toString().trim().split('\n') : [seed]) {
        const value: unknown = JSON.parse(Buffer.from(line).toString());
        for (const place of places(value)) {
          for (const bad of BAD) {
            count++;
            const text = JSON.stringify(withSpoilt(value, place, bad)) ?? '';
            await target.run(bytes(`${text}\n`), new Random(count, 1));
          }
        }
      }
    }
    expect(count).toBeGreaterThan(500);
  },
);

describe('the mutations', () => {
  test('are the same for the same seed and run, and different for others', () => {
    const input = (seed: number, run: number): Uint8Array => mutate(new Random(seed, run), targets.stream);
    expect(input(3, 5)).toEqual(input(3, 5));
    const different = new Set(
      Array.from({ length: 200 }, (_, run) => Buffer.from(input(3, run)).toString('base64')),
    );
    // Two may end up the same, for example if both cut off everything.
    expect(different.size).toBeGreaterThan(170);
  });

  test('reach the inside of the readers: some inputs pass, most are refused', async () => {
    const { cfgfile } = targets;
    const { parseConfig } = await import('../../src/config/parse.ts');
    let good = 0;
    for (let run = 0; run < 500; run++) {
      try {
        parseConfig(mutate(new Random(1, run), cfgfile));
        good++;
      } catch {
        // Most inputs do that.
      }
    }
    expect(good).toBeGreaterThan(25);
    expect(good).toBeLessThan(400);
  });
});

test.each([
  ['a key that is an assignment to all objects', '{"__proto__": {"polluted": 1}}'],
  ['a constructor', '{"constructor": {"prototype": {"polluted": 1}}}'],
])('%s changes no other object', async (_what, text) => {
  const { parseLibxlJson, printLibxlJson } = await import('../../src/memfile/libxl-json.ts');
  const { withImages } = await import('../../src/memfile/libxl-config.ts');
  const { snakeKeys } = await import('../../src/cli/text.ts');
  const value = parseLibxlJson(text) as Record<string, unknown>;
  withImages({ ...value, disks: [value] }, [{ vdev: 'xvda', path: '/x', format: 'raw' }]);
  snakeKeys(value);
  expect(printLibxlJson(value).replace(/\s/g, '')).toBe(text.replace(/\s/g, ''));
  expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  checkPrototypes();
});
