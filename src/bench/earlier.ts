/** Compares a bench with an earlier one, of which what it printed or its report is left. */
import { open } from 'node:fs/promises';
import { errnoCode, UsageError, XlsnapError } from '../core/errors.ts';
import { Fields } from '../core/fields.ts';
import { parseJson } from '../core/json.ts';
import { omitUndefined } from '../core/omit-undefined.ts';
import { pairedRatios, type RatioRun, stoppedSeconds } from './ratios.ts';
import { type Summary, summarise } from './statistics.ts';
import type { BenchResult } from './types.ts';

/** The largest benches have 12 paths and 99 rounds, and print 2 MiB. */
const MAX_BYTES = 64 * 2 ** 20;
/** In a report, what `--json` prints is between these two. */
export const EMBEDDED_START = '<script type="application/json" id="bench-result">';
export const EMBEDDED_END = '</script>';

/** What is compared of a bench. */
export interface EarlierBench {
  /** ISO 8601, UTC. */
  readonly started: string;
  /** Of xlsnap. */
  readonly version: string;
  /** What affects the figures, in words, by what it is. */
  readonly conditions: ReadonlyMap<string, string>;
  readonly paths: readonly { readonly name: string; readonly baseline?: string | undefined }[];
  readonly runs: readonly RatioRun[];
}

/** Whether the ratio of a path has changed. Only if the intervals of both medians do not overlap, it has. */
export type Verdict = 'lower' | 'higher' | 'no_difference' | 'too_few_rounds';

/** A ratio of a path to its baseline, then and now. */
export interface RatioChange {
  readonly before: Summary;
  readonly after: Summary;
  readonly verdict: Verdict;
}

export interface Comparison {
  /** When the earlier bench was started, ISO 8601, UTC. */
  readonly started: string;
  /** Version of xlsnap in the earlier bench. */
  readonly version: string;
  /** What else was different then: `memory: 512 MiB, now 1024 MiB`. */
  readonly differences: readonly string[];
  /** The paths that are in both, and have a ratio in both. */
  readonly paths: readonly {
    readonly name: string;
    readonly wall?: RatioChange;
    readonly stop?: RatioChange;
  }[];
}

/**
 * Reads what `bench --json` has printed, or a report.
 * @throws {UsageError} BENCH_BASELINE, if the file is neither, or cannot be read
 */
export async function readEarlierBench(path: string): Promise<EarlierBench> {
  let text: string;
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    if (size > MAX_BYTES) throw notBench(path, `it is larger than ${MAX_BYTES} bytes`);
    text = await file.readFile('utf8');
  } catch (error) {
    if (error instanceof XlsnapError) throw error;
    if (errnoCode(error) === 'ENOENT')
      throw new UsageError('BENCH_BASELINE', `${path} does not exist`, { cause: error });
    throw new UsageError('BENCH_BASELINE', `${path} cannot be read`, { cause: error });
  }
  return parseEarlierBench(path, text);
}

/**
 * Parses what `bench --json` has printed, or a report.
 * @param path for the message
 * @throws {UsageError} BENCH_BASELINE, if it is neither
 */
export function parseEarlierBench(path: string, text: string): EarlierBench {
  const start = text.indexOf(EMBEDDED_START);
  const from = start + EMBEDDED_START.length;
  const json = start < 0 ? text : text.slice(from, text.indexOf(EMBEDDED_END, from));
  let value: unknown;
  try {
    value = parseJson(json);
  } catch (cause) {
    throw notBench(
      path,
      start < 0 ? 'it is neither JSON nor a report' : 'the figures in it are damaged',
      cause,
    );
  }
  const top = new Fields(value, (problem) => notBench(path, problem));
  if (top.raw('message_type') !== 'bench_result') throw notBench(path, 'message_type is not bench_result');
  return {
    started: top.text('started'),
    version: top.text('version'),
    conditions: storedConditions(top),
    paths: top.list('paths').map((one) => ({
      name: one.text('name'),
      baseline: one.optional('baseline', (key) => one.text(key)),
    })),
    runs: top.list('runs').map((one) => ({
      path: one.text('path'),
      round: one.count('round'),
      wallSeconds: one.number('wall_seconds'),
      downtimeSeconds: one.optional('downtime_seconds', (key) => one.number(key)),
      stop: one.optional('stop', (key) => ({ seconds: one.fields(key).number('seconds') })),
    })),
  };
}

function notBench(path: string, problem: string, cause?: unknown): UsageError {
  return new UsageError('BENCH_BASELINE', `${path} is not the result of a bench: ${problem}`, {
    cause,
    hint: 'give a file with what bench --json printed, or a report',
  });
}

/** Compares the ratios of each path to its baseline. */
export function compareBenches(result: BenchResult, earlier: EarlierBench): Comparison {
  const conditions = conditionsOf(result);
  const differences = [...conditions].flatMap(([name, now]) => {
    const then = earlier.conditions.get(name);
    return then === undefined || then === now ? [] : [`${name}: ${then}, now ${now}`];
  });
  const paths = result.paths.flatMap(({ name, baseline }) => {
    const old = earlier.paths.find((path) => path.name === name);
    if (old === undefined || baseline === name) return [];
    const change = (value: (run: RatioRun) => number | undefined): RatioChange | undefined => {
      const before = summarise(pairedRatios(earlier.runs, name, old.baseline, value));
      const after = summarise(pairedRatios(result.runs, name, baseline, value));
      if (before === undefined || after === undefined) return undefined;
      return { before, after, verdict: verdictOf(before, after) };
    };
    const wall = change((run) => run.wallSeconds);
    return wall === undefined ? [] : [omitUndefined({ name, wall, stop: change(stoppedSeconds) })];
  });
  return { started: earlier.started, version: earlier.version, differences, paths };
}

/** Two intervals of 95 % that do not overlap are far less likely by chance than 5 %, so several paths may be compared. */
function verdictOf({ interval: before }: Summary, { interval: after }: Summary): Verdict {
  if (before === undefined || after === undefined) return 'too_few_rounds';
  if (after.upper < before.lower) return 'lower';
  return after.lower > before.upper ? 'higher' : 'no_difference';
}

function conditionsOf({ type, memoryBytes, machine, xen, node }: BenchResult): ReadonlyMap<string, string> {
  return described({ ...machine, type, memoryBytes, xen: `${xen.major}.${xen.minor}`, node });
}

function storedConditions(top: Fields): ReadonlyMap<string, string> {
  const machine = top.fields('machine');
  const xen = top.fields('xen');
  return described({
    type: top.text('type'),
    memoryBytes: top.count('memory_bytes'),
    cpu: machine.text('cpu'),
    cpus: machine.count('cpus'),
    kernel: machine.text('kernel'),
    fileSystem: machine.text('file_system'),
    governor: machine.optional('governor', (key) => machine.text(key)),
    storage: machine.optional('storage', (key) => machine.text(key)),
    xen: `${xen.count('major')}.${xen.count('minor')}`,
    node: top.text('node'),
  });
}

function described(of: {
  readonly type: string;
  readonly memoryBytes: number;
  readonly cpu: string;
  readonly cpus: number;
  readonly kernel: string;
  readonly fileSystem: string;
  readonly governor?: string | undefined;
  readonly storage?: string | undefined;
  readonly xen: string;
  readonly node: string;
}): ReadonlyMap<string, string> {
  const words = {
    guest: of.type,
    memory: `${Math.round(of.memoryBytes / 2 ** 20)} MiB`,
    processor: `${of.cpus} × ${of.cpu}`,
    governor: of.governor,
    kernel: of.kernel,
    'file system': of.fileSystem,
    storage: of.storage,
    Xen: of.xen,
    Node: of.node,
  };
  return new Map(
    Object.entries(words).flatMap(([name, text]): [string, string][] =>
      text === undefined ? [] : [[name, text]],
    ),
  );
}
