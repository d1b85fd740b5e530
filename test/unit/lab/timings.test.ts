import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Steps } from '../../../lab/timings.ts';

let directory: string;
let file: string;
let text = '';
const out = new Writable({
  write(chunk, _, done) {
    text += String(chunk);
    done();
  },
});
beforeEach(() => {
  text = '';
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-timings-'));
  file = join(directory, 'timings.json');
});
afterEach(() => {
  vi.useRealTimers();
  rmSync(directory, { recursive: true });
});

it('remembers how long a step took, beside the others', async () => {
  writeFileSync(file, JSON.stringify({ boot: 61_000, other: 5, spoilt: 'x' }));
  const steps = new Steps(file, out);
  expect(await steps.run('boot', 'booting', async () => 7)).toBe(7);
  expect(text).toMatch(/^lab: booting … \(took 61 s last time\)\nlab: booting: done in 0\.\d s\n$/);
  const kept = JSON.parse(readFileSync(file, 'utf8'));
  expect(kept).toEqual({ boot: expect.any(Number), other: 5 });
  expect(kept.boot).toBeLessThan(5000);
  expect(readdirSync(directory)).toEqual(['timings.json']);
});

it('keeps no time of a step that failed', async () => {
  writeFileSync(file, '{spoilt');
  const steps = new Steps(file, out);
  await expect(steps.run('boot', 'booting', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(text).toMatch(/^lab: booting …\nlab: booting: FAILED after 0\.\d s\n$/);
  expect(steps.last('boot')).toBeUndefined();
});

it('reports that a long step is still running, and how much is done', async () => {
  vi.useFakeTimers();
  writeFileSync(file, JSON.stringify({ boot: 40_000 }));
  let end = (): void => {};
  const work = new Steps(file, out).run('boot', 'booting', (progress) => {
    setTimeout(() => progress.report(0.75), 30_000);
    return new Promise<void>((resolve) => {
      end = resolve;
    });
  });
  vi.advanceTimersByTime(45_000);
  end();
  await work;
  expect(text.split('\n').slice(1, 3)).toEqual([
    'lab:   still booting: 20 s, 50 %',
    'lab:   still booting: 40 s, 75 %',
  ]);
});

it('is silent without a stream to print to', async () => {
  const steps = new Steps(file, undefined);
  await steps.run('boot', 'booting', async () => {});
  expect(steps.last('boot')).toBeLessThan(5000);
});
