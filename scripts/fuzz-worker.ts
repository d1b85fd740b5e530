/** Runs one fuzz target in a thread of its own, so that a run that hangs can be noticed and ended. */
import { inspect } from 'node:util';
import { parentPort, workerData } from 'node:worker_threads';
import { mutate, Random } from '../test/fuzz/mutate.ts';
import { checkPrototypes, type TargetName, targets } from '../test/fuzz/targets.ts';

export interface FuzzJob {
  readonly target: TargetName;
  readonly seed: number;
  /** Number of the first run. */
  readonly from: number;
  readonly runs: number;
  /** Number of the current run. */
  readonly progress: BigInt64Array;
}

export interface FuzzReport {
  readonly run: number;
  readonly problem?: string;
}

const { target: name, seed, from, runs, progress } = workerData as FuzzJob;
const target = targets[name];

async function all(): Promise<FuzzReport> {
  for (let run = from; run < from + runs; run++) {
    Atomics.store(progress, 0, BigInt(run));
    const random = new Random(seed, run);
    try {
      await target.run(mutate(random, target), random);
      checkPrototypes();
    } catch (error) {
      return { run, problem: inspect(error, { depth: 2 }).slice(0, 4000) };
    }
  }
  Atomics.store(progress, 0, BigInt(from + runs));
  return { run: from + runs };
}

parentPort?.postMessage(await all());
