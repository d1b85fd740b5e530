/** Finds journals of deletes that were killed, or are under way. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { journalPathOf } from '../create/journal.ts';
import { type FoundSteps, JournalError } from '../journal/file.ts';
import { readJournal } from '../read-journal.ts';
import type { DeleteHead, DeleteStep } from './journal.ts';

export type FoundDelete = FoundSteps<DeleteHead, DeleteStep>;

const ENDING = journalPathOf('');

/**
 * Finds the journals of deletes in some directories and in those right below them, each once. Others, and those that cannot
 * be read, are left out: whoever looks at their snapshot finds that there is one.
 */
export async function findDeletes(directories: Iterable<string>): Promise<readonly FoundDelete[]> {
  const paths = new Set<string>();
  for (const top of directories) {
    const entries = await readdir(top, { withFileTypes: true }).catch(() => []);
    const below = entries.filter((one) => one.isDirectory()).map(({ name }) => join(top, name));
    for (const directory of [top, ...below]) {
      for (const name of await readdir(directory).catch(() => [])) {
        if (name.endsWith(ENDING)) paths.add(join(directory, name));
      }
    }
  }
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
