/** Undos that creates and reverts share. A function called `plan…Undo` only registers an undo in `phases`. */
import { dirname } from 'node:path';
import { EnvironmentError } from '../core/errors.ts';
import { unmakeDirectory } from '../core/files.ts';
import { shellQuote } from '../core/shell-quote.ts';
import type { Phases } from './phases.ts';

/**
 * Registers the removal of the directories that were created for a file.
 * @returns a function that forgets this undo
 */
export function planDirectoryUndo(phases: Phases, made: string, memoryPath: string): () => void {
  return phases.onUndo(`removed the directory ${made}`, `rmdir ${made}`, () =>
    unmakeDirectory(dirname(memoryPath), made),
  );
}

/**
 * Registers the removal of the journal. It stays if something could not be undone.
 * @returns a function that forgets this undo
 */
export function planJournalUndo(
  phases: Phases,
  path: string,
  memoryPath: string,
  journal: { keep(): Promise<void>; remove(): Promise<void> },
): () => void {
  return phases.onUndo(`removed ${path}`, `xlsnap recover ${shellQuote(memoryPath)}`, async (failed) => {
    if (failed) {
      await journal.keep();
      throw new EnvironmentError('JOURNAL_KEPT', 'it says what is left to undo');
    }
    await journal.remove();
    return false;
  });
}
