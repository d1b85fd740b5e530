import { describe, expect, test } from 'vitest';
import { baselineOf, commandOf, DEFAULT_PATHS, parsePaths } from '../../../src/bench/paths.ts';
import { UsageError } from '../../../src/core/errors.ts';

const files = { memory: '/d/m', config: '/d/c' };
const own = ['node', 'main.js'];

function command(path: string): string {
  const [parsed] = parsePaths(path);
  return parsed === undefined ? '' : commandOf(parsed, own, 7, files).join(' ');
}

test('a path gives its command', () => {
  expect(command('xl-save')).toBe('xl save -c 7 /d/m');
  expect(command('xl-save+sync')).toBe('xl save -c 7 /d/m');
  expect(command('paused')).toBe('node main.js snapshot-create 7 /d/c --json --no-sync');
  expect(command('live+sync')).toBe('node main.js snapshot-create 7 /d/c --json --live');
  expect(command('tracked')).toBe('node main.js snapshot-create 7 /d/c --json --live --track --no-sync');
  expect(command('paused+no-sparse+in-flight=2+batch=510')).toBe(
    'node main.js snapshot-create 7 /d/c --json --no-sync --tuning batch=510+in-flight=2+no-sparse',
  );
});

describe('paths that are refused', () => {
  test.each([
    '',
    'xl',
    'paused+',
    'paused+fast',
    'live+batch=511',
    'paused+in-flight=65',
    'xl-save+no-sparse',
    'paused+memory=63',
    'paused+memory=',
    'paused+memory=100,paused+memory=100',
    'tracked+no-checksums',
    'tracked+batch=510',
    'live,live',
    'paused+sync,paused+sync+sync',
  ])('%s', (list) => {
    expect(() => parsePaths(list)).toThrow(UsageError);
  });
});

test('`all` has the default paths and more', () => {
  const all = parsePaths('all').map(({ name }) => name);
  expect(all.slice(0, 3).join(',')).toBe(DEFAULT_PATHS);
  expect(all.length).toBeGreaterThan(6);
});

test('a path that waits for the disk is compared with an xl save that does', () => {
  const baselines = (list: string): (string | undefined)[] => {
    const paths = parsePaths(list);
    return paths.map((path) => baselineOf(path, paths)?.name);
  };
  expect(baselines('xl-save,xl-save+sync,live,live+sync')).toEqual([
    'xl-save',
    'xl-save+sync',
    'xl-save',
    'xl-save+sync',
  ]);
  expect(
    baselines('xl-save+memory=600,xl-save,xl-save+sync,live+memory=600,live+sync+memory=600,live'),
  ).toEqual([
    'xl-save+memory=600',
    'xl-save',
    'xl-save+sync',
    'xl-save+memory=600',
    'xl-save+memory=600',
    'xl-save',
  ]);
  expect(baselines('xl-save,live+sync')).toEqual(['xl-save', 'xl-save']);
  expect(baselines('live,paused')).toEqual([undefined, undefined]);
});
