/** What a bench is asked for and what it answers. Plain data, as `--json` prints it; docs/bench.md describes it. */
import type { GuestType, XenVersion } from '../snapshot/ports.ts';
import type { CopyRound, PhaseTiming } from '../snapshot/types.ts';
import type { BenchPath } from './paths.ts';
import type { Summary } from './statistics.ts';

export interface BenchRequest {
  /** Name or domid of a running domain. */
  readonly domain: string;
  readonly paths: readonly BenchPath[];
  /** Rounds that count, beside the first one, which warms up. */
  readonly rounds: number;
  /** Where a directory for the files is made; the place of snapshots unless given. */
  readonly directory?: string;
  /** How xlsnap itself is run: program and first arguments. */
  readonly own: readonly string[];
  /** Version of xlsnap. */
  readonly version: string;
}

/** How long the guest was stopped, as seen from outside by looking at the domain's state again and again. */
export interface SeenStop {
  /** Seconds since the command began. */
  readonly startSeconds: number;
  readonly seconds: number;
  /** It may have been so much longer or shorter: half of the time between the looks before and after. */
  readonly plusMinusSeconds: number;
}

/** One command that went well. */
export interface BenchRun {
  readonly path: string;
  /** From 1; 0 is the round that warms up. */
  readonly round: number;
  /** The whole command, start of the process included. */
  readonly wallSeconds: number;
  /** The library call alone; absent for xl. */
  readonly callSeconds?: number;
  readonly userSeconds: number;
  readonly systemSeconds: number;
  /** Largest resident set of the command and the processes that it started, octets. */
  readonly peakBytes: number;
  /** Absent when the stop was too short to be seen. */
  readonly stop?: SeenStop;
  /** What xlsnap itself tells; absent for xl. */
  readonly downtimeSeconds?: number;
  /** xlsnap's own phases; for xl, `before`, `stopped` and `after` as seen from outside. */
  readonly phases: readonly PhaseTiming[];
  /** Live only. */
  readonly rounds?: readonly CopyRound[];
  /** Length of the memory file, octets. */
  readonly fileBytes: number;
  readonly allocatedBytes: number;
}

export interface BenchFailure {
  readonly path: string;
  readonly round: number;
  readonly message: string;
}

/** The figures of one path, over the rounds that count. */
export interface PathResult extends BenchPath {
  /** Path that the ratios are against. */
  readonly baseline?: string;
  readonly wallSeconds?: Summary;
  readonly callSeconds?: Summary;
  /** User and system time together. */
  readonly cpuSeconds?: Summary;
  readonly peakBytes?: Summary;
  /** From outside, the same way for all; runs whose stop was too short to be seen are not in it. */
  readonly stopSeconds?: Summary;
  readonly downtimeSeconds?: Summary;
  readonly fileBytes?: Summary;
  readonly allocatedBytes?: Summary;
  /** Of the runs of one round, path against baseline. */
  readonly wallRatio?: Summary;
  readonly cpuRatio?: Summary;
}

export interface Machine {
  readonly cpu: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  /** Of the directory with the files. */
  readonly fileSystem: string;
  /** Processes that want to run, mean of the minute before the start and before the end. */
  readonly loadBefore: number;
  readonly loadAfter: number;
}

export interface BenchResult {
  readonly domain: string;
  readonly domid: number;
  readonly type: GuestType;
  readonly memoryBytes: number;
  /** ISO 8601, UTC. */
  readonly started: string;
  readonly totalSeconds: number;
  readonly rounds: number;
  readonly machine: Machine;
  readonly xen: XenVersion;
  readonly node: string;
  readonly version: string;
  readonly paths: readonly PathResult[];
  readonly runs: readonly BenchRun[];
  readonly failures: readonly BenchFailure[];
  readonly warnings: readonly string[];
}
