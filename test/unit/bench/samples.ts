import { parsePaths } from '../../../src/bench/paths.ts';
import { summarise } from '../../../src/bench/statistics.ts';
import type { BenchResult, BenchRun } from '../../../src/bench/types.ts';

const MIB = 2 ** 20;

/** Two rounds of two paths, and a third that failed. */
export const benchRuns: readonly BenchRun[] = [0, 1, 2].flatMap((round) => [
  {
    path: 'xl-save',
    round,
    wallSeconds: 2 + round / 10,
    userSeconds: 0.1,
    systemSeconds: 0.9,
    peakBytes: 12 * MIB,
    stop: { startSeconds: 0.1, seconds: 1.8, plusMinusSeconds: 0.002 },
    phases: [
      { name: 'before', startSeconds: 0, seconds: 0.1 },
      { name: 'stopped', startSeconds: 0.1, seconds: 1.8 },
      { name: 'after', startSeconds: 1.9, seconds: 0.1 },
    ],
    fileBytes: 512 * MIB,
    allocatedBytes: 512 * MIB,
  },
  {
    path: 'live+sync',
    round,
    wallSeconds: 1 + round / 10,
    callSeconds: 0.8,
    userSeconds: 0.3,
    systemSeconds: 0.2,
    peakBytes: 90 * MIB,
    downtimeSeconds: 0.012,
    phases: ['lock', 'precopy', 'suspend', 'device-model', 'memory', 'contexts', 'resume', 'finish'].map(
      (name, at) => ({ name, startSeconds: at / 10, seconds: 0.1 }),
    ),
    rounds: [
      { pages: 131072, seconds: 0.5, dirtyAfter: 40 + round },
      { pages: 40, seconds: 0.001, dirtyAfter: 0 },
    ],
    fileBytes: 512 * MIB,
    allocatedBytes: 128 * MIB,
  },
]);

export const benchResult: BenchResult = {
  domain: 'guest<1>&"2"',
  domid: 7,
  type: 'pvh',
  memoryBytes: 512 * MIB,
  started: '2026-11-25T15:00:00.000Z',
  totalSeconds: 30,
  rounds: 2,
  machine: {
    cpu: 'Some CPU',
    cpus: 2,
    memoryBytes: 24 * 1024 * MIB,
    kernel: 'Linux 6.12',
    fileSystem: 'ext4',
    loadBefore: 0.5,
    loadAfter: 1.5,
  },
  xen: { major: 4, minor: 20, extra: '.4-pre' },
  node: 'v20.19.2',
  version: '0.1.0',
  paths: parsePaths('xl-save,live+sync,paused').map((path) => {
    const runs = benchRuns.filter((run) => run.path === path.name && run.round > 0);
    const of = (key: 'wallSeconds' | 'peakBytes' | 'fileBytes' | 'allocatedBytes' | 'downtimeSeconds') => {
      const summary = summarise(runs.flatMap((run) => run[key] ?? []));
      return summary === undefined ? {} : { [key]: summary };
    };
    return {
      ...path,
      baseline: 'xl-save',
      ...of('wallSeconds'),
      ...of('peakBytes'),
      ...of('fileBytes'),
      ...of('allocatedBytes'),
      ...of('downtimeSeconds'),
    };
  }),
  runs: benchRuns,
  failures: [{ path: 'paused', round: 0, message: 'snapshot-create exited with status 6: <no> answer' }],
  warnings: [],
  earlier: { started: '2026-11-24T15:00:00.000Z', version: '0.0.9', differences: [], paths: [] },
};
