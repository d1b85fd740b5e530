/** Request and result of a bench: plain data, as `--json` prints it. docs/bench.md describes it. */
import type { GuestType, XenVersion } from '../core/xen.ts';
import type { PhaseTiming } from '../memfile/manifest.ts';
import type { CopyRound } from '../snapshot/api.ts';
import type { Comparison } from './earlier.ts';
import type { BenchPath } from './paths.ts';
import type { Summary } from './statistics.ts';

export interface BenchRequest {
  /** Name or domid of a running domain. */
  readonly domain: string;
  readonly paths: readonly BenchPath[];
  /** Number of rounds that count; one more comes first to warm up. */
  readonly rounds: number;
  /** Where the directory for the files is created. Default: the directory of snapshots. */
  readonly directory?: string | undefined;
  /** How xlsnap itself is run: program and first arguments. */
  readonly own: readonly string[];
  /** Options for each `snapshot-create`. Default: none. */
  readonly createOptions?: readonly string[] | undefined;
  /** Version of xlsnap. */
  readonly version: string;
}

/** How long the guest was stopped, by sampling the domain's state from outside. */
export interface SeenStop {
  /** Seconds since the command began. */
  readonly startSeconds: number;
  readonly seconds: number;
  /** Possible error: half of the time between the samples before and after each change. */
  readonly plusMinusSeconds: number;
}

/** One successful run. */
export interface BenchRun {
  readonly path: string;
  /** From 1; round 0 warms up. */
  readonly round: number;
  /** The whole command, including the start of the process. */
  readonly wallSeconds: number;
  /** The library call alone; absent for xl. */
  readonly callSeconds?: number;
  readonly userSeconds: number;
  readonly systemSeconds: number;
  /** Sum of the largest resident sets of the command and the processes that it started. */
  readonly peakBytes: number;
  /** Absent when the stop was too short to be seen. */
  readonly stop?: SeenStop | undefined;
  /** As xlsnap itself reports it; absent for xl. */
  readonly downtimeSeconds?: number;
  /** xlsnap's own phases; for xl, `before`, `stopped` and `after` as seen from outside. */
  readonly phases: readonly PhaseTiming[];
  /** Live only. */
  readonly rounds?: readonly CopyRound[];
  /** Tracked only: pages that were written since the earlier file. */
  readonly trackedPages?: number;
  /** Length of the memory file in bytes. */
  readonly fileBytes: number;
  readonly allocatedBytes: number;
  /**
   * What all programs have written to the block device, until the file was on it. Of the round that warms up only, since that waits
   * for the disk; absent where there is no such device.
   */
  readonly writtenBytes?: number | undefined;
}

export interface BenchFailure {
  readonly path: string;
  readonly round: number;
  readonly message: string;
}

/** The figures of one path over the rounds that count. */
export interface PathResult extends BenchPath {
  /** The path that the ratios compare with. */
  readonly baseline?: string | undefined;
  readonly wallSeconds?: Summary;
  readonly callSeconds?: Summary;
  /** User plus system time. */
  readonly cpuSeconds?: Summary;
  readonly peakBytes?: Summary;
  /** As seen from outside, in the same way for all paths; runs whose stop was too short to be seen are missing. */
  readonly stopSeconds?: Summary;
  readonly downtimeSeconds?: Summary;
  readonly fileBytes?: Summary;
  readonly allocatedBytes?: Summary;
  /** Path against baseline, run by run of the same round. */
  readonly wallRatio?: Summary;
  readonly cpuRatio?: Summary;
  readonly stopRatio?: Summary;
  /** Live only: how fast the guest wrote to pages that it had not written to in the round. */
  readonly dirtyPagesPerSecond?: Summary;
  /** Tracked only. */
  readonly trackedPages?: Summary;
  /** Of the run that warmed up. */
  readonly writtenBytes?: number | undefined;
}

export interface Machine {
  readonly cpu: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  /** The type of the directory's file system. */
  readonly fileSystem: string;
  /** How the processor's frequency is chosen, if that is known: `performance`, `ondemand`. */
  readonly governor?: string;
  /** The device that the directory is on: model and name. */
  readonly storage?: string;
  /** Load average of the minute before the start, and before the end. */
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
  /** The comparison with an earlier bench, if there is one. */
  readonly earlier?: Comparison;
}
