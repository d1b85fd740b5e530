/** Journals as they are found. */
import { type CreateHead, type CreateStep, toCreateJournal } from './create/journal.ts';
import { type DeleteHead, type DeleteStep, toDeleteJournal } from './delete/journal.ts';
import { type FoundSteps, JournalError, journalError, readJournalLines } from './journal/file.ts';
import { type RevertHead, type RevertStep, toRevertJournal } from './revert/journal.ts';

export type FoundJournal =
  /** Its writer was killed before anything else was done. */
  | { readonly kind: 'headless'; readonly path: string }
  | ({ readonly kind: 'create' } & FoundSteps<CreateHead, CreateStep>)
  | ({ readonly kind: 'revert' } & FoundSteps<RevertHead, RevertStep>)
  | ({ readonly kind: 'delete' } & FoundSteps<DeleteHead, DeleteStep>);

/**
 * Reads a journal.
 * @returns `undefined` when there is no such file
 * @throws {JournalError} If it is not a journal, or another user could have written it
 */
export async function readJournal(path: string): Promise<FoundJournal | undefined> {
  const lines = await readJournalLines(path);
  if (lines === undefined) return undefined;
  if (lines === 'headless') return { kind: 'headless', path };
  const { kind } = lines.head;
  switch (kind) {
    case 'create':
      return { kind, ...(await toCreateJournal(path, lines)) };
    case 'revert':
      return { kind, ...(await toRevertJournal(path, lines)) };
    case 'delete':
      return { kind, ...(await toDeleteJournal(path, lines)) };
    default:
      throw journalError(path, 'is damaged: it belongs to no create, revert or delete');
  }
}

/** Tells whether a journal says that something was begun. One without a first line does not. */
export async function isUnfinished(path: string): Promise<boolean> {
  try {
    const journal = await readJournal(path);
    return journal !== undefined && journal.kind !== 'headless';
  } catch (error) {
    if (error instanceof JournalError) return true;
    throw error;
  }
}
