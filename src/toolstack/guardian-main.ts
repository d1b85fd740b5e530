/**
 * The guardian's program. Its standard input tells the journal, a JSON string on a line. When that ends without the line
 * `done`, whoever held the other end is gone: all is undone by the journal.
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

/** Another create may have begun at once; it will not get far. */
const LOCK_TIMEOUT_MS = 60_000;
const ATTEMPTS = 20;
const PAUSE_MS = 3000;
/** Before others: a guest stands still. */
const PRIORITY = -10;

/** Whoever began the create has decided that this Xen may be used. */
const HOST = { untestedXen: true };

/** What the guest waits for must not fail for good since something was busy just now. */
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

/** Every thread has its own priority. */
async function hurry(): Promise<void> {
  for (const thread of await readdir('/proc/self/task')) setPriority(Number(thread), PRIORITY);
}

/** The last to be killed when memory runs out: then it is needed. */
const spared = writeFile('/proc/self/oom_score_adj', '-1000').catch(() => {});
const host = openHost(HOST).catch(() => undefined);
const [journal, end] = (await text(process.stdin)).split('\n');
if (journal === undefined || journal === '' || journal === 'done' || end === 'done') process.exit(0);
await Promise.all([spared, hurry().catch(() => {})]);
const path: string = JSON.parse(journal);
const problem = await persist(path, host);
if (problem !== undefined) {
  // There is nobody to tell; whoever finds the journal can read it there.
  const left = problem instanceof XlsnapError ? problem.undoFailures : [];
  await noteProblem(path, [describeError(problem), ...left].join('; ')).catch(() => {});
}
process.exit(problem === undefined ? 0 : 1);
