/** What a guardian runs when the process that it watched over is gone: `guardian-main.js JOURNAL`. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, XlsnapError } from '../core/errors.ts';
import { noteProblem } from '../snapshot/journal.ts';
import { recoverSnapshot } from '../snapshot/recover.ts';
import { openHost } from './host.ts';

/** Another create may have begun at once; it will not get far. */
const LOCK_TIMEOUT_MS = 60_000;
const ATTEMPTS = 20;
const PAUSE_MS = 3000;

async function guard(path: string): Promise<void> {
  await using host = await openHost();
  await recoverSnapshot(host, { path, lockTimeoutMs: LOCK_TIMEOUT_MS });
}

/** What the guest waits for must not fail for good since something was busy just now. */
async function persist(path: string): Promise<unknown> {
  let problem: unknown;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (attempt > 0) await sleep(PAUSE_MS);
    try {
      await guard(path);
      return undefined;
    } catch (error) {
      problem = error;
    }
  }
  return problem;
}

const [path] = process.argv.slice(2);
if (path === undefined) process.exit(2);
const problem = await persist(path);
if (problem !== undefined) {
  // There is nobody to tell; whoever finds the journal can read it there.
  const left = problem instanceof XlsnapError ? problem.undoFailures : [];
  await noteProblem(path, [describeError(problem), ...left].join('; ')).catch(() => {});
}
process.exit(problem === undefined ? 0 : 1);
