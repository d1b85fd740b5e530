/** Recovers from creates, reverts and deletes that were killed: finds their journals. */

import { readdir, rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CallOptions } from '../core/call-options.ts';
import { describeError, errnoCode, RecoverError, XlsnapError } from '../core/errors.ts';
import { findByEnding, removeIfPresent } from '../core/files.ts';
import { partialOf } from '../memfile/names.ts';
import type { RecoverRequest, RecoverResult } from './api.ts';
import { recoverCreate } from './create/recover.ts';
import { recoverDelete } from './delete/recover.ts';
import { type FoundHold, findHold, findHolds } from './guest/hold-record.ts';
import { recoverGuest, recoverRest } from './guest/recover.ts';
import { journalPathOf, snapshotDirOf } from './naming.ts';
import { Phases } from './phases.ts';
import type { Host } from './ports.ts';
import { type FoundJournal, readJournal } from './read-journal.ts';
import { recoverRevert } from './revert/recover.ts';
import { revertKeys } from './revert/related.ts';

/** How long a journal may lack its first line, which is written right after it was created. */
const HEADLESS_MS = 1000;

/**
 * Undoes what is left of a create whose process was killed, or whose host went down: the guest is as it was before, and
 * nothing is left that looks like a snapshot. A complete snapshot stays. After a revert the disks are all as
 * before, or all as at the snapshot; see `RecoverResult`. A delete is finished. May be called any number of times.
 *
 * @throws {DomainError} If the create, revert or delete is still under way (`DOMAIN_BUSY`)
 * @throws {JournalError} If the journal cannot be read, or must not be trusted
 * @throws {RecoverError} If something could not be undone: `undoFailures` says what to do by hand, and the journal stays
 */
export async function recoverSnapshot(
  host: Host,
  request: RecoverRequest,
  options: CallOptions = {},
): Promise<RecoverResult> {
  const path = request.path.endsWith('.journal') ? request.path : journalPathOf(request.path);
  // First, and without reading the journal: its storage may hang while the guest is suspended.
  const held = findHold(host, resolve(path));
  if (held !== undefined) {
    const lock = { what: 'recover', timeoutMs: request.lockTimeoutMs ?? 0 };
    await using _lock = await host.toolstack.lock([held.uuid, held.domain], lock);
    const done = await recoverGuest(host, held, options);
    return await recoverRest(path, done, held, async () => {
      const found = await readJournal(path);
      if (found === undefined) return undefined;
      if (found.kind === 'headless') return await removeHeadless(path);
      if (found.kind === 'create') return await recoverCreate(host, found, options);
      if (found.kind !== 'delete') return undefined;
      // A snapshot whose create could not end everything, and that was deleted since.
      const others = found.head.keys.filter((key) => key !== held.uuid && key !== held.domain);
      await using _others = await host.toolstack.lock(others, lock);
      return await recoverDelete(host, found, options);
    });
  }
  const seen = await readWithHead(path);
  if (seen === undefined) return { journal: path, outcome: 'nothing', undone: [] };
  if (seen.kind === 'headless') return await removeHeadless(path);
  const lock = { what: 'recover', timeoutMs: request.lockTimeoutMs ?? 0 };
  await using _lock = await host.toolstack.lock(keysOf(seen), lock);
  // Its writer may have succeeded while the lock was waited for.
  const found = await readJournal(path);
  switch (found?.kind) {
    case 'create':
      return await recoverCreate(host, found, options);
    case 'revert':
      return await recoverRevert(host, found, options);
    case 'delete':
      return await recoverDelete(host, found, options);
    default:
      return { journal: path, outcome: 'nothing', undone: [] };
  }
}

/** Returns what its writer locks, or locked. */
function keysOf(found: Exclude<FoundJournal, { kind: 'headless' }>): readonly string[] {
  if (found.kind === 'delete') return found.head.keys;
  return found.kind === 'revert' ? revertKeys(found.head) : [found.head.uuid, found.head.domain];
}

/**
 * Does the same for every journal below a directory: those of reverts, and of creates and deletes without a
 * `memory_path`.
 * @param directory default: where the host has them
 * @throws {RecoverError} If one of them could not be undone, once all were tried; see `recoverSnapshot`
 */
export async function recoverAll(
  host: Host,
  directory: string = snapshotDirOf(host),
  options: CallOptions = {},
): Promise<readonly RecoverResult[]> {
  const results: RecoverResult[] = [];
  const errors: XlsnapError[] = [];
  // Guests before disks and files: one storage that hangs must not keep the guests of others.
  const held = findHolds(host);
  for (const guest of held) await releaseHeld(host, guest, options);
  const journals = await findJournals(directory, (path, error) => errors.push(toTypedError(error, path)));
  for (const path of new Set([...journals, ...held.map(({ journal }) => journal)])) {
    try {
      results.push(await recoverSnapshot(host, { path }, options));
    } catch (error) {
      errors.push(toTypedError(error, path));
    }
  }
  const [first] = errors;
  if (first === undefined) return results;
  if (errors.length === 1) throw first;
  const error = new RecoverError(
    'NOT_RECOVERED',
    [
      `${errors.length} creates, reverts or deletes could not be recovered:`,
      ...errors.map((error) => `  - ${describeError(error)}`),
    ].join('\n'),
    { hint: 'run xlsnap recover FILE for each of them to see more', data: { recovered: results } },
  );
  error.undone = errors.flatMap(({ undone }) => undone);
  error.undoFailures = errors.flatMap(({ undoFailures }) => undoFailures);
  throw error;
}

/** Releases a held guest. A failure is reported later, when its journal is read. */
async function releaseHeld(host: Host, held: FoundHold, options: CallOptions): Promise<void> {
  try {
    await using _lock = await host.toolstack.lock([held.uuid, held.domain], {
      what: 'recover',
      timeoutMs: 0,
    });
    const phases = new Phases(options);
    await phases.bounded(() => recoverGuest(host, held, options));
  } catch {
    // See above.
  }
}

/** Wraps a file system error about one journal, which must not prevent the others from being recovered. */
function toTypedError(error: unknown, path: string): XlsnapError {
  if (error instanceof XlsnapError) return error;
  return new RecoverError('NOT_RECOVERED', `${path}: ${describeError(error)}`, { cause: error });
}

/**
 * Finds journals on two levels: one directory for each domain.
 * @param failed is called for each directory that cannot be read; the others are
 */
async function findJournals(
  directory: string,
  failed: (path: string, error: unknown) => void,
): Promise<readonly string[]> {
  const found = await findByEnding(journalPathOf(''), [directory], [directory], (path) =>
    readdir(path, { withFileTypes: true }).catch((error: unknown) => {
      if (errnoCode(error) !== 'ENOENT') failed(path, error);
      return [];
    }),
  );
  return [...found].sort();
}

async function readWithHead(path: string): Promise<FoundJournal | undefined> {
  const found = await readJournal(path);
  if (found?.kind !== 'headless') return found;
  await sleep(HEADLESS_MS);
  return await readJournal(path);
}

/** Removes a journal without a first line: nothing but empty files had been created. */
async function removeHeadless(path: string): Promise<RecoverResult> {
  const partial = partialOf(path.slice(0, -'.journal'.length));
  const undone: string[] = [];
  if (await removeIfPresent(partial)) undone.push(`removed ${partial}`);
  await rm(path, { force: true });
  return { journal: path, outcome: 'undone', undone };
}
