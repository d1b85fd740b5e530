import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MemoryLimit } from '../../../src/bench/memory-limit.ts';

let root: string;
let groups: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'xlsnap-limit-'));
  groups = join(root, 'sys/fs/cgroup');
  mkdirSync(groups, { recursive: true });
});
afterEach(() => rmSync(root, { recursive: true }));

test('version 1 has its own hierarchy for memory', async () => {
  mkdirSync(join(groups, 'memory'));
  const limit = await MemoryLimit.make(600 * 2 ** 20, root);
  expect(limit.directory).toBe(join(groups, 'memory', `xlsnap-bench-${process.pid}`));
  expect(readFileSync(join(limit.directory, 'memory.limit_in_bytes'), 'utf8')).toBe('629145600');
});

test('version 2 gets the controller in the group above', async () => {
  writeFileSync(join(groups, 'cgroup.controllers'), 'cpu io memory pids\n');
  const limit = await MemoryLimit.make(64 * 2 ** 20, root);
  expect(readFileSync(join(groups, 'cgroup.subtree_control'), 'utf8')).toBe('+memory');
  expect(readFileSync(join(limit.directory, 'memory.max'), 'utf8')).toBe('67108864');
});

test('without a memory controller it says so, and leaves nothing', async () => {
  const refused = { code: 'CGROUP', hint: expect.stringContaining('memory=') };
  await expect(MemoryLimit.make(2 ** 30, root)).rejects.toMatchObject(refused);
  writeFileSync(join(groups, 'cgroup.controllers'), 'cpu io\n');
  await expect(MemoryLimit.make(2 ** 30, root)).rejects.toMatchObject(refused);
  expect(existsSync(join(groups, `xlsnap-bench-${process.pid}`))).toBe(false);
});

test('the group is removed, once', async () => {
  mkdirSync(join(groups, 'memory'));
  const limit = await MemoryLimit.make(2 ** 30, root);
  // On a real one, the files go with the directory.
  rmSync(join(limit.directory, 'memory.limit_in_bytes'));
  await limit[Symbol.asyncDispose]();
  expect(existsSync(limit.directory)).toBe(false);
  await limit[Symbol.asyncDispose]();
});
