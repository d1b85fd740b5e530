/** Finds journals of deletes that were killed, or are under way. */
import { readdir } from 'node:fs/promises';
import { findByEnding } from '../../core/files.ts';
import { type FoundSteps, JournalError } from '../journal/file.ts';
import { journalPathOf } from '../naming.ts';
import { readJournal } from '../read-journal.ts';
import type { DeleteHead, DeleteStep } from './journal.ts';

export type FoundDelete = FoundSteps<DeleteHead, DeleteStep>;

const ENDING = journalPathOf('');

/**
 * Finds the journals of deletes in some directories, and in those right below some of them, as `findManifests` does. Others, and those that cannot
 * be read, are left out: whoever looks at their snapshot finds that there is one.
 */
export async function findDeletes(
  directories: readonly string[],
  withBelow: readonly string[],
): Promise<readonly FoundDelete[]> {
  const paths = await findByEnding(ENDING, directories, withBelow, (directory) =>
    readdir(directory, { withFileTypes: true }).catch(() => []),
  );
  const found: FoundDelete[] = [];
  for (const path of [...paths].sort()) {
    try {
      const journal = await readJournal(path);
      if (journal?.kind === 'delete') found.push(journal);
    } catch (error) {
      if (!(error instanceof JournalError)) throw error;
    }
  }
  return found;
}
