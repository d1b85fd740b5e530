import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { runBench } from '../../../src/bench/bench.ts';
import type { CommandRun, CommandRunner } from '../../../src/bench/command.ts';
import { parsePaths } from '../../../src/bench/paths.ts';
import type { BenchRequest } from '../../../src/bench/types.ts';
import { snakeKeys } from '../../../src/cli/text.ts';
import { readConfigFile } from '../../../src/config/read.ts';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { parseTuning } from '../../../src/snapshot/memory/tuning.ts';
import { readTrack } from '../../../src/snapshot/track/record.ts';
import { FAKE_UUID, FakeHost, readImage } from '../../../src/testing/fake-host.ts';

let directory: string;
let host: FakeHost;
/** The commands that were run. */
let commands: string[];
/** Called before a command; may throw, or return how it ended. */
let before: (command: string) => Partial<CommandRun> | undefined;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-bench-test-'));
  host = new FakeHost({ directory, type: 'hvm' });
  commands = [];
  before = () => undefined;
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** A clock of its own: `xl save` takes 2 s of it, snapshot-create 1 s. */
const runner: CommandRunner = async ([...command]) => {
  const words = command.join(' ');
  commands.push(words.replaceAll(/\S*\/xlsnap-bench-\w+\//g, ''));
  const run = { status: 0, stdout: '', stderr: '', startedMs: performance.now(), peakBytes: 4096 };
  const end = before(words);
  if (end !== undefined) return { ...run, wallSeconds: 9, userSeconds: 9, systemSeconds: 9, ...end };
  if (command[0] === 'xl') {
    // A sound stream, written without the library.
    const file = command.at(-1) ?? '';
    const { plan } = await createSnapshot(host, {
      domain: '7',
      config: { name: 'x', memoryPath: file, disks: [] },
    });
    for (const beside of [plan.configPath, plan.manifestPath]) rmSync(beside ?? '');
    return { ...run, wallSeconds: 2, userSeconds: 0.1, systemSeconds: 0.3 };
  }
  const [, , domain = '', cfg = '', ...options] = command;
  const at = options.indexOf('--tuning');
  const result = await createSnapshot(host, {
    domain,
    config: await readConfigFile(cfg),
    live: options.includes('--live'),
    ...(options.includes('--track') ? { track: true } : {}),
    ...(at < 0 ? {} : { tuning: parseTuning((options[at + 1] ?? '').split('+')) }),
  });
  const stdout = JSON.stringify({ message_type: 'create_result', ...(snakeKeys(result) as object) });
  return { ...run, stdout, wallSeconds: 1, userSeconds: 0.2, systemSeconds: 0 };
};

function request(paths = 'xl-save,paused,live', rounds = 2): BenchRequest {
  return {
    domain: 'guest1',
    paths: parsePaths(paths),
    rounds,
    directory: join(directory, 'bench', 'files'),
    own: ['xlsnap'],
    version: '1.2.3',
  };
}

function expectUntouched(): void {
  expect(host.runs).toBe(true);
  expect(readdirSync(directory)).toEqual(['xvda.img']);
  expect(readImage(join(directory, 'xvda.img')).tags).toEqual({});
}

test('each path has its turn in each round, and nothing is left', async () => {
  const result = await runBench(host, runner, request());
  expect(commands).toHaveLength(9);
  expect(new Set(commands)).toEqual(
    new Set([
      'xl save -c 7 memory',
      'xlsnap snapshot-create 7 memory-cfg --json --no-sync',
      'xlsnap snapshot-create 7 memory-cfg --json --live --no-sync',
    ]),
  );
  expect(result.runs.map(({ round }) => round)).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 2]);
  const orders = [0, 1, 2].map((round) =>
    result.runs.filter((run) => run.round === round).map(({ path }) => path),
  );
  expect(new Set(orders.map(String)).size).toBe(3);
  expectUntouched();
});

test('the figures are from the rounds that count', async () => {
  const result = await runBench(
    host,
    runner,
    request('xl-save,paused+batch=510+in-flight=1+no-sparse,live', 3),
  );
  const [xl, paused, live] = result.paths;
  expect(xl).toMatchObject({ baseline: 'xl-save', wallSeconds: { count: 3, median: 2 } });
  expect(paused).toMatchObject({
    baseline: 'xl-save',
    tuning: { batchPages: 510, inFlight: 1, sparse: false },
    wallSeconds: { count: 3, min: 1, max: 1 },
    wallRatio: { count: 3, median: 0.5 },
    peakBytes: { median: 4096 },
  });
  expect(paused?.cpuRatio?.median).toBeCloseTo(0.5, 9);
  expect(paused?.downtimeSeconds?.min).toBeGreaterThan(0);
  // Without holes, zeros take space.
  expect(paused?.allocatedBytes?.median).toBeGreaterThan(live?.allocatedBytes?.median ?? Number.NaN);
  expect(result.runs.find(({ path }) => path === 'live')?.rounds?.length).toBeGreaterThan(0);
  expect(result.runs.find(({ path }) => path === 'live')?.phases.map(({ name }) => name)).toContain(
    'contexts',
  );
  expect(result).toMatchObject({
    domain: 'guest1',
    domid: 7,
    type: 'hvm',
    version: '1.2.3',
    failures: [],
    warnings: [],
  });
  expect(result.machine).toMatchObject({
    cpus: expect.any(Number),
    kernel: expect.stringContaining('Linux'),
  });
  expectUntouched();
});

describe('a path that fails', () => {
  test('is reported and tried once more, and the others continue', async () => {
    const error = JSON.stringify({ message_type: 'error', message: 'no log-dirty mode' });
    before = (words) =>
      words.includes('--live') ? { status: 7, stderr: `{"message_type":"phase"}\n${error}\n` } : undefined;
    const result = await runBench(host, runner, request('xl-save,paused,live', 4));
    expect(result.failures).toEqual(
      [0, 1].map((round) => ({
        path: 'live',
        round,
        message: 'snapshot-create exited with status 7: no log-dirty mode',
      })),
    );
    expect(result.paths.map(({ wallSeconds }) => wallSeconds?.count)).toEqual([4, 4, undefined]);
    expectUntouched();
  });

  test('has its guest resumed, with a warning, if it left it suspended', async () => {
    before = (words) => {
      if (!words.startsWith('xl ')) return undefined;
      host.suspended = true;
      host.machineStopped = true;
      return { status: 1, stderr: 'libxl: error: no room\nFailed to save domain\n' };
    };
    const result = await runBench(host, runner, request('xl-save,paused', 1));
    expect(result.failures[0]?.message).toBe(
      'xl save exited with status 1: libxl: error: no room; Failed to save domain',
    );
    expect(result.warnings[0]).toContain('resumed');
    expect(result.runs).toHaveLength(2);
    expectUntouched();
  });

  test('does not have its guest resumed while another program saves it', async () => {
    const seen: boolean[] = [];
    before = (words) => {
      if (!words.startsWith('xl ')) return undefined;
      // A migration begins while this path fails.
      host.suspended = true;
      host.saver = 77;
      let asked = 0;
      host.fault = (call) => {
        if (call !== 'saver' && call !== 'resume') return;
        seen.push(host.suspended && host.saver !== undefined && call === 'resume');
        if (call !== 'saver' || ++asked < 3) return;
        // It has failed, and its program resumes the guest.
        host.saver = undefined;
        host.suspended = false;
      };
      return { status: 1, stderr: 'busy' };
    };
    const result = await runBench(host, runner, request('xl-save', 1));
    expect(seen).not.toContain(true);
    expect(seen.length).toBeGreaterThan(2);
    expect(result.warnings).toEqual([]);
    expect(host.calls).not.toContain('resume');
    host.fault = () => {};
    expectUntouched();
  });

  test('is reported if it writes something other than a save file', async () => {
    before = (words) => {
      if (!words.startsWith('xl ')) return undefined;
      writeFileSync(words.split(' ').at(-1) ?? '', 'rubbish');
      return {};
    };
    const { failures } = await runBench(host, runner, request('xl-save,paused', 1));
    expect(failures[0]).toMatchObject({ path: 'xl-save', round: 0 });
    expectUntouched();
  });

  test('is reported if Node crashes', async () => {
    const stderr =
      "node:internal/modules:1\n\nError: Cannot find module 'koffi'\n    at x {\n}\n\nNode.js v20.20.2\n";
    before = () => ({ status: 1, stderr });
    const { failures } = await runBench(host, runner, request('paused', 1));
    expect(failures[0]?.message).toBe(
      "snapshot-create exited with status 1: Error: Cannot find module 'koffi'",
    );
  });

  test('is reported if it prints no result', async () => {
    before = (words) => {
      const cfg = words.split(' ')[3] ?? '';
      if (!words.startsWith('xl ')) writeFileSync(cfg.replace(/-cfg$/, ''), 'x');
      return words.startsWith('xl ') ? undefined : { stdout: '{}' };
    };
    const { failures } = await runBench(host, runner, request('paused', 1));
    expect(failures[1]?.message).toContain('did not print');
  });
});

describe('the path tracked', () => {
  const isTracked = (): boolean => readTrack(host, FAKE_UUID) !== undefined;

  test('copies what was written since a snapshot of its own, and leaves the guest untracked', async () => {
    before = (words) => {
      // Only what `tracked` has begun is tracked.
      expect(isTracked()).toBe(words.includes('--track') && !words.includes('parent'));
      return undefined;
    };
    const result = await runBench(host, runner, request('xl-save,tracked', 1));
    expect(commands.filter((words) => words.includes('--track'))).toEqual([
      'xlsnap snapshot-create 7 parent-cfg --json --live --track',
      'xlsnap snapshot-create 7 memory-cfg --json --live --track --no-sync',
      'xlsnap snapshot-create 7 parent-cfg --json --live --track',
      'xlsnap snapshot-create 7 memory-cfg --json --live --track --no-sync',
    ]);
    expect(result.failures).toEqual([]);
    expect(result.paths[1]).toMatchObject({ wallSeconds: { count: 1 }, trackedPages: { count: 1 } });
    expect(isTracked()).toBe(false);
    rmSync(host.runDirectory, { recursive: true, force: true });
    expectUntouched();
  });

  test('fails, and tracks no longer, if its command fails', async () => {
    before = (words) => (words.includes('memory-cfg') ? { status: 7, stderr: 'no room\n' } : undefined);
    const { failures } = await runBench(host, runner, request('tracked', 1));
    expect(failures.map(({ message }) => message)).toEqual(
      [0, 1].map(() => 'snapshot-create exited with status 7: no room'),
    );
    expect(isTracked()).toBe(false);
  });

  test('is refused with the reason where there are no clones', async () => {
    const { memoryClones } = host;
    Object.assign(host, {
      memoryClones: { ...memoryClones, obstacle: () => Promise.resolve('ext4 has no reflinks') },
    });
    await expect(runBench(host, runner, request('tracked', 1))).rejects.toMatchObject({
      code: 'BENCH_TRACK',
      message: expect.stringContaining('ext4 has no reflinks'),
    });
    expect(commands).toEqual([]);
  });

  test('the tracking of a guest that was tracked before ends, with a warning', async () => {
    await createSnapshot(host, {
      domain: '7',
      config: { name: 'x', memoryPath: join(directory, 'x.save'), disks: [] },
      live: true,
      track: true,
    });
    expect(isTracked()).toBe(true);
    const { warnings, failures } = await runBench(host, runner, request('live', 1));
    expect({ warnings, failures }).toEqual({
      warnings: [expect.stringContaining('its next snapshot copies all memory')],
      failures: [],
    });
    expect(isTracked()).toBe(false);
  });
});

test('Ctrl-C ends the bench after the current command, and nothing is left', async () => {
  const abort = new AbortController();
  before = () => {
    if (commands.length === 2) abort.abort();
    return undefined;
  };
  const run = runBench(host, runner, request(), { signal: abort.signal });
  await expect(run).rejects.toMatchObject({ code: 'INTERRUPTED' });
  expect(commands).toHaveLength(2);
  expectUntouched();
});

test('a domain that no longer exists ends the bench', async () => {
  before = () => {
    host.domid = undefined;
    return { status: 1, stderr: 'gone' };
  };
  await expect(runBench(host, runner, request())).rejects.toMatchObject({ code: 'DOMAIN_GONE' });
  expect(readdirSync(directory)).toEqual(['xvda.img']);
});

test('a paused domain is refused', async () => {
  host.pauses = 1;
  await expect(runBench(host, runner, request())).rejects.toMatchObject({ code: 'BENCH_PAUSED' });
  expect(commands).toEqual([]);
});

test('an existing directory stays, and so does what another program has put into a new one', async () => {
  const files = join(directory, 'bench', 'files');
  before = () => {
    writeFileSync(join(files, '..', 'precious'), '');
    return undefined;
  };
  await runBench(host, runner, request('paused', 1));
  expect(existsSync(join(directory, 'bench', 'precious'))).toBe(true);
  mkdirSync(files, { recursive: true });
  await runBench(host, runner, request('paused', 1));
  expect(readdirSync(files)).toEqual([]);
});
