/**
 * The guardian's program. Its standard input gives it the journal, as a JSON string on a line. If the input
 * ends without the line `done`, the process at the other end has died, and the guardian undoes everything by
 * the journal.
 */
import { readdir, writeFile } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, XlsnapError } from '../core/errors.ts';
import { noteProblem } from '../snapshot/journal/file.ts';
import type { Host } from '../snapshot/ports.ts';
import { recoverSnapshot } from '../snapshot/recover.ts';
import { openHost } from './host.ts';

/** Time limit for the locks, in milliseconds. Another create may have begun at once; it will not get far. */
const LOCK_TIMEOUT_MS = 60_000;
const ATTEMPTS = 20;
const PAUSE_MS = 3000;
/** Ahead of other processes, since a guest is stopped. */
const PRIORITY = -10;

/** Whoever began the create has decided that this Xen may be used. */
const HOST = { untestedXen: true };

/**
 * Recovers, and tries again after a failure: what the guest waits for must not fail for good because
 * something was busy.
 */
async function persist(path: string, first: Promise<Host | undefined>): Promise<unknown> {
  let problem: unknown;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (attempt > 0) await sleep(PAUSE_MS);
    try {
      await using host = (attempt === 0 ? await first : undefined) ?? (await openHost(HOST));
      await recoverSnapshot(host, { path, lockTimeoutMs: LOCK_TIMEOUT_MS });
      return undefined;
    } catch (error) {
      problem = error;
    }
  }
  return problem;
}

/** Raises the priority of all threads; each has its own. */
async function hurry(): Promise<void> {
  for (const thread of await readdir('/proc/self/task')) setPriority(Number(thread), PRIORITY);
}

/** The last process to be killed when memory runs out, since that is when it is needed. */
const spared = writeFile('/proc/self/oom_score_adj', '-1000').catch(() => {});
const host = openHost(HOST).catch(() => undefined);
const [journal, end] = (await text(process.stdin)).split('\n');
if (journal === undefined || journal === '' || journal === 'done' || end === 'done') process.exit(0);
await Promise.all([spared, hurry().catch(() => {})]);
const path: string = JSON.parse(journal);
const problem = await persist(path, host);
if (problem !== undefined) {
  // There is nobody to report to; whoever finds the journal can read it there.
  const left = problem instanceof XlsnapError ? problem.undoFailures : [];
  await noteProblem(path, [describeError(problem), ...left].join('; ')).catch(() => {});
}
process.exit(problem === undefined ? 0 : 1);
