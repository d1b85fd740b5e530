import { chmodSync, lstatSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { useCompileCache } from '../../../src/cli/compile-cache.ts';

const isRoot = process.geteuid?.() === 0;
// As root not below /tmp, where everybody can write.
let place: string;
beforeEach(() => {
  place = mkdtempSync(join(isRoot ? '/var/cache' : tmpdir(), 'xlsnap-test-'));
});
afterEach(() => rmSync(place, { recursive: true, force: true }));

/** The directories that Node is given. */
function given(directory: string): string[] {
  const directories: string[] = [];
  useCompileCache(directory, { enableCompileCache: (path) => directories.push(path) });
  return directories;
}

/** Others have no cache. */
const asRoot = test.runIf(isRoot);

asRoot('a cache is made where only root can read and write', () => {
  const cache = join(place, 'cache');
  expect(given(cache)).toEqual([cache]);
  expect(lstatSync(cache).mode & 0o777).toBe(0o700);
  expect(given(cache)).toEqual([cache]);
});

asRoot('a cache that another user can write to, or replace, is not used', () => {
  const cache = join(place, 'cache');
  mkdirSync(cache);
  for (const mode of [0o720, 0o702, 0o755, 0o1777]) {
    chmodSync(cache, mode);
    expect(given(cache), mode.toString(8)).toEqual([]);
  }
  chmodSync(cache, 0o700);
  for (const mode of [0o720, 0o702, 0o1777]) {
    chmodSync(place, mode);
    expect(given(cache), mode.toString(8)).toEqual([]);
  }
});

asRoot('a link is not followed', () => {
  mkdirSync(join(place, 'elsewhere'), { mode: 0o700 });
  symlinkSync(join(place, 'elsewhere'), join(place, 'cache'));
  expect(given(join(place, 'cache'))).toEqual([]);
});

asRoot('where the directory cannot be made, there is no cache, and no error', () => {
  expect(given(join(place, 'missing', 'cache'))).toEqual([]);
});

test('a Node without compile cache has none', () => {
  expect(() => useCompileCache(join(place, 'cache'), {})).not.toThrow();
});
