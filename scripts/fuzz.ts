/**
 * Changes good inputs, and checks that nothing but a typed error results: `npm run fuzz -- --target stream
 * --runs 1000000 --seed 7`. Without --target, runs all targets, one after the other. Each run's input depends
 * only on the seed and its number.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { mutate, Random } from '../test/fuzz/mutate.ts';
import { type TargetName, targets } from '../test/fuzz/targets.ts';
import type { FuzzJob, FuzzReport } from './fuzz-worker.ts';

/** A run that takes longer counts as a hang. */
const HANG_SECONDS = 60;
/** Growth above the memory of the first runs that counts as a failure. */
const GROWTH_MIB = 64;
const FAILURES = 'fuzz-failures';

const { values } = parseArgs({
  options: {
    target: { type: 'string', multiple: true },
    runs: { type: 'string', default: '20000' },
    seed: { type: 'string' },
    from: { type: 'string', default: '0' },
  },
});
const names = Object.keys(targets) as TargetName[];
const chosen = values.target === undefined ? names : names.filter((name) => values.target?.includes(name));
const runs = whole('runs', values.runs);
const from = whole('from', values.from);
const seed = values.seed === undefined ? Date.now() % 2 ** 31 : whole('seed', values.seed);
if (values.target?.some((name) => !names.some((known) => known === name))) {
  stop(`the targets are ${names.join(', ')}`);
}

function whole(option: string, text: string): number {
  if (!/^[0-9]{1,10}$/.test(text)) stop(`--${option} ${text}: not a whole number`);
  return Number(text);
}

function stop(problem: string): never {
  console.error(problem);
  process.exit(2);
}

/** Runs a target. Resolves to the failed run, or to undefined if there was none. */
function fuzz(target: TargetName): Promise<{ run: number; problem: string } | undefined> {
  const progress = new BigInt64Array(new SharedArrayBuffer(8));
  const job: FuzzJob = { target, seed, from, runs, progress };
  const worker = new Worker(new URL('./fuzz-thread.mjs', import.meta.url), {
    workerData: job,
    resourceLimits: { maxOldGenerationSizeMb: 96 },
  });
  const start = performance.now();
  const run = (): number => Number(Atomics.load(progress, 0));
  let baseline = 0;
  let peak = 0;
  let told = start;
  let last = { run: -1, since: start };
  return new Promise((done) => {
    const end = (outcome: { run: number; problem: string } | undefined): void => {
      clearInterval(timer);
      const seconds = (performance.now() - start) / 1000;
      const count = run() - from;
      console.log(
        `${target}: ${count} runs in ${seconds.toFixed(1)} s, ${Math.round(count / seconds)} runs/s; ` +
          `resident set ${mib(baseline)} MiB after the first runs, at most ${mib(peak)} MiB; seed ${seed}` +
          (outcome === undefined ? '' : '; FAILED'),
      );
      void worker.terminate().then(() => done(outcome));
    };
    const timer = setInterval(() => {
      const now = performance.now();
      const rss = process.memoryUsage.rss();
      peak = Math.max(peak, rss);
      if (baseline === 0 && (run() - from >= Math.min(20_000, runs / 10) || now - start > 60_000)) {
        baseline = rss;
        peak = rss;
      }
      if (run() !== last.run) last = { run: run(), since: now };
      else if (now - last.since > HANG_SECONDS * 1000) {
        end({ run: last.run, problem: `did not end within ${HANG_SECONDS} s` });
      }
      if (baseline > 0 && peak - baseline > GROWTH_MIB * 2 ** 20) {
        end({ run: run(), problem: `the resident set grew by more than ${GROWTH_MIB} MiB` });
      }
      if (now - told > 10_000) {
        told = now;
        console.error(`${target}: ${run() - from} of ${runs}, ${mib(rss)} MiB`);
      }
    }, 100);
    worker.once('message', ({ run: at, problem }: FuzzReport) => {
      end(problem === undefined ? undefined : { run: at, problem });
    });
    worker.once('error', (error: Error) => end({ run: run(), problem: `the worker died: ${error.message}` }));
  });
}

const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(0);

let failed = false;
for (const target of chosen) {
  const failure = await fuzz(target);
  if (failure === undefined) continue;
  failed = true;
  const { run, problem } = failure;
  mkdirSync(FAILURES, { recursive: true });
  const path = resolve(join(FAILURES, `${target}-${seed}-${run}`));
  writeFileSync(path, mutate(new Random(seed, run), targets[target]));
  console.log(`run ${run} of ${target}: ${problem}`);
  console.log(`its input: ${path}`);
  console.log(`to repeat: npm run fuzz -- --target ${target} --seed ${seed} --from ${run} --runs 1`);
}
process.exit(failed ? 1 : 0);
