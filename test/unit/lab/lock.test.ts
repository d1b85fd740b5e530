import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { withLock } from '../../../lab/lock.ts';
import { processId } from '../../../lab/proc.ts';

let directory: string;
let file: string;
const said: string[] = [];
const say = (line: string): void => void said.push(line);
beforeEach(() => {
  said.length = 0;
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-lock-'));
  file = join(directory, 'lock');
});
afterEach(() => rmSync(directory, { recursive: true }));

it('is held while the job runs, and not afterwards, however the job ends', async () => {
  const held = await withLock(file, 'a job', say, async () => JSON.parse(readFileSync(file, 'utf8')));
  expect(held).toEqual({ ...processId(process.pid), what: 'a job' });
  expect(readdirSync(directory)).toEqual([]);
  await expect(withLock(file, 'a job', say, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(readdirSync(directory)).toEqual([]);
  expect(said).toEqual([]);
});

it('is waited for, and given up in time', async () => {
  const other = spawn('sleep', ['20']);
  try {
    writeFileSync(file, JSON.stringify({ ...processId(other.pid ?? 0), what: 'boots' }));
    let ran = false;
    const job = async (): Promise<void> => {
      ran = true;
    };
    await expect(withLock(file, 'mine', say, job, 100)).rejects.toMatchObject({ code: 'timeout' });
    expect(said).toEqual([`waiting for process ${other.pid}, which is busy: boots`]);
    expect(ran).toBe(false);
    expect(existsSync(file)).toBe(true);
    const work = withLock(file, 'mine', say, job);
    await sleep(50);
    rmSync(file);
    await work;
    expect(ran).toBe(true);
  } finally {
    other.kill();
  }
});

it('is taken over from a process that has exited, even if another has its number', async () => {
  const other = spawn('sleep', ['100']);
  const id = processId(other.pid ?? 0);
  other.kill();
  await once(other, 'exit');
  for (const holder of [id, { ...processId(process.pid), start: '1' }]) {
    writeFileSync(file, JSON.stringify({ ...holder, what: 'x' }));
    expect(await withLock(file, 'mine', say, async () => 5)).toBe(5);
  }
  expect(said).toEqual([
    `took over the lock of process ${other.pid}, which has exited`,
    `took over the lock of process ${process.pid}, which has exited`,
  ]);
  expect(readdirSync(directory)).toEqual([]);
});

it('is taken over if it is damaged', async () => {
  writeFileSync(file, '{');
  expect(await withLock(file, 'mine', say, async () => 5)).toBe(5);
});
