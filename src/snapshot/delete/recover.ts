/** Finishes a delete whose process was killed. */
import type { CallOptions } from '../../core/call-options.ts';
import { RecoverError } from '../../core/errors.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { RecoverResult } from '../api.ts';
import { type FoundSteps, Journal } from '../journal/file.ts';
import { Phases } from '../phases.ts';
import type { Host } from '../ports.ts';
import type { DeleteHead, DeleteStep } from './journal.ts';
import { deleteActions, removeEmpty, syncRemoval } from './steps.ts';

/**
 * Deletes what is left of the snapshot. The caller holds the locks that the journal names.
 * @throws {RecoverError} If something could not be deleted; then the rest stays, and the journal with it
 */
export async function recoverDelete(
  host: Host,
  { path, head, steps }: FoundSteps<DeleteHead, DeleteStep>,
  options: CallOptions = {},
): Promise<RecoverResult> {
  const journal = await Journal.reopen<DeleteStep>(path);
  await using _open = { [Symbol.asyncDispose]: () => journal.keep() };
  const phases = new Phases(options);
  const noted = [...steps];
  const note = async (step: DeleteStep): Promise<void> => {
    await journal.noteDurably(step);
    noted.push(step);
  };
  const run = { keys: head.keys, steps: noted, note, options };
  // In reverse: the last that is registered runs first. Nothing follows a step that fails: the files go after the disks.
  for (const { what, byHand, run: act } of [...deleteActions(host, head, run)].reverse()) {
    phases.onUndo(what, byHand, async (failed) => {
      if (failed) throw new RecoverError('NOT_RECOVERED', 'only when what precedes it is done');
      return await act();
    });
  }
  const { undone, failures } = await phases.undo();
  if (failures.length > 0) {
    const error = new RecoverError(
      'NOT_RECOVERED',
      `could not finish deleting snapshot "${head.name}" of domain ${head.domain}`,
      {
        hint: `fix the cause, then run xlsnap recover ${shellQuote(head.memoryPath)} again: the snapshot is no longer complete`,
      },
    );
    error.undone = undone;
    error.undoFailures = failures;
    throw error;
  }
  await syncRemoval(head);
  await journal.remove();
  await removeEmpty(host, head);
  return { journal: path, kind: 'delete', outcome: 'deleted', name: head.name, domain: head.domain, undone };
}
