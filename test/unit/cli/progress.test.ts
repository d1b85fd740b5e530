import { describe, expect, test } from 'vitest';
import { progressLine } from '../../../src/cli/progress.ts';
import type { Reporter } from '../../../src/core/reporter.ts';
import { createResult, type World, xlsnap } from './support.ts';

const MIB = 2 ** 20;

/** A create that takes one second of memory, 1000 reports. */
async function busy(args: readonly string[], world: World) {
  let now = 0;
  const work = (reporter: Reporter): void => {
    reporter.phase('memory', 'start');
    for (let i = 1; i <= 1000; i++) {
      now += 1;
      reporter.progress({ phase: 'memory', done: i * 65536, total: 1000 * 65536, unit: 'bytes' });
    }
    reporter.phase('memory', 'end', 1);
    reporter.log('info', 'not for people');
  };
  return await xlsnap(['snapshot-create', 'guest1', ...args], {
    ...world,
    now: () => now,
    calls: {
      createSnapshot: (_host, _request, options) => {
        work(options.reporter ?? { phase() {}, progress() {}, log() {} });
        return Promise.resolve({ ...createResult, warnings: [] });
      },
    },
  });
}

describe('on a terminal', () => {
  test('prints a bar, redrawn at most ten times a second, within the width, and removed at the end', async () => {
    const { stderr, stdout } = await busy([], { tty: true, columns: 60 });
    const drawn = stderr.split('\r').map((part) => part.replace('\x1b[K', ''));
    expect(drawn.length).toBeGreaterThan(8);
    expect(drawn.length).toBeLessThan(16);
    for (const line of drawn) expect(line.length).toBeLessThan(60);
    expect(stderr).toMatch(/\rmemory \[#+\.+\] 31 MiB of 63 MiB {2}ETA 0:01 {4}63 MiB\/s/);
    expect(stderr.endsWith('\r\x1b[K')).toBe(true);
    expect(stderr).not.toContain('\n');
    expect(stdout).not.toContain('\x1b');
  });

  test('says whether the guest runs or is stopped', async () => {
    let now = 0;
    const { stderr } = await xlsnap(['snapshot-create', 'guest1'], {
      tty: true,
      columns: 40,
      now: () => now,
      calls: {
        createSnapshot: (_host, _request, { reporter }) => {
          for (const phase of ['precopy', 'suspend', 'memory', 'resume', 'finish']) {
            reporter?.phase(phase, 'start');
            now += 200;
            reporter?.progress({ phase, done: 96 * MIB, total: 128 * MIB, unit: 'bytes', round: 0 });
            reporter?.phase(phase, 'end', 0.2);
          }
          return Promise.resolve({ ...createResult, warnings: [] });
        },
      },
    });
    const lines = stderr.split('\r').map((part) => part.replace('\x1b[K', '').trim());
    expect(lines).toEqual(
      expect.arrayContaining([
        'copying memory, guest runs',
        'copying memory, guest runs [###..] 75 %',
        'suspending the guest  96 MiB of 128 MiB',
        'memory, GUEST STOPPED [#######...] 75 %',
        'resume, GUEST STOPPED [#######...] 75 %',
        'checking the file  96 MiB of 128 MiB',
      ]),
    );
    for (const line of lines) expect(line.length).toBeLessThan(40);
  });

  test('takes a terminal that reports no size for one of 80 columns', async () => {
    const { stderr } = await busy([], { tty: true, columns: 0 });
    expect(stderr).toMatch(/\rmemory \[#+\.+\] 19 MiB of 63 MiB/);
  });

  test.each([
    ['a pipe', [], {}],
    ['--quiet', ['--quiet'], { tty: true }],
    ['--quiet on a dumb terminal', ['--quiet'], { tty: true, env: { TERM: 'dumb' } }],
  ])('prints nothing with %s', async (_, args, world) => {
    expect((await busy(args, world)).stderr).toBe('');
  });
});

test('prints a line for each phase on a terminal that cannot move its cursor', async () => {
  expect((await busy([], { tty: true, env: { TERM: 'dumb' } })).stderr).toBe('memory\n');
});

test('a rate is not shown before the phase has run for half a second, and has a fixed width', () => {
  const progress = { phase: 'memory', done: 8 * MIB, total: 1024 * MIB, unit: 'bytes' } as const;
  expect(progressLine(progress, 0.001, 80)).not.toMatch(/ETA|\/s/);
  const widths = [8, 80, 800].map((done) =>
    progressLine({ ...progress, done: done * MIB }, 0.9, 80).indexOf(']'),
  );
  expect(new Set(widths).size).toBe(1);
});

describe('--json', () => {
  test('prints lines, at most ten a second and the last', async () => {
    const { stderr } = await busy(['--json'], { tty: true });
    const lines = stderr
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines[0]).toEqual({ message_type: 'phase', phase: 'memory', event: 'start' });
    const progress = lines.filter((line) => line['message_type'] === 'progress');
    expect(progress.length).toBeGreaterThan(8);
    expect(progress.length).toBeLessThan(13);
    expect(progress.at(-1)).toEqual({
      message_type: 'progress',
      phase: 'memory',
      done: 65536000,
      total: 65536000,
      unit: 'bytes',
    });
    expect(lines.at(-1)).toEqual({ message_type: 'log', level: 'info', message: 'not for people' });
  });

  test('prints none with --quiet', async () => {
    expect((await busy(['--json', '--quiet'], {})).stderr).toBe('');
  });
});

describe('progressLine', () => {
  test.each([
    [
      { phase: 'memory', done: 64 * MIB, total: 128 * MIB, unit: 'bytes', rate: 32 * MIB } as const,
      0,
      80,
      'memory [###############...............]  64 MiB of 128 MiB  ETA 0:02    32 MiB/s',
    ],
    [
      { phase: 'memory', done: 256, total: 512, unit: 'pages', round: 2, dirtyPages: 12 } as const,
      1,
      200,
      `memory [${'#'.repeat(20)}${'.'.repeat(20)}] 1.0 MiB of 2.0 MiB  ETA 0:01   1.0 MiB/s  pass 3  12 dirty pages`,
    ],
    [{ phase: 'disks', done: 1, total: 2, unit: 'steps' } as const, 9, 20, 'disks [##...] 1 of 2'],
    [{ phase: 'memory', done: 5, unit: 'steps' } as const, 0, 80, 'memory 5'],
    [{ phase: 'memory', done: 64 * MIB, total: 128 * MIB, unit: 'bytes' } as const, 0, 10, 'memory 50 '],
    [{ phase: 'memory', done: 9, total: 3, unit: 'steps' } as const, 0, 24, 'memory [########] 9 of 3'],
    [{ phase: 'memory', done: 0, total: 0, unit: 'bytes' } as const, 0, 80, 'memory 0.0 MiB of 0.0 MiB'],
  ])('%#', (progress, seconds, width, line) => {
    expect(progressLine(progress, seconds, width)).toBe(line);
    expect(progressLine(progress, seconds, 1)).toHaveLength(1);
  });
});
