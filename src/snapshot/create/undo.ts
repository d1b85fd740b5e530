/**
 * Undoes the steps of a create that concern files: for the process that took them, and for another one that has its journal. A
 * function called `plan…Undo` only registers an undo in `phases`, which runs if the create fails.
 */

import { createHash } from 'node:crypto';
import { readFile, rm, stat } from 'node:fs/promises';
import { errnoCode } from '../../core/errors.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { partialOf } from '../../memfile/names.ts';
import type { Phases } from '../phases.ts';

/** Maximum size of a cfgfile or a manifest; a larger file is not ours. */
const MAX_TEXT_BYTES = 4 * 1024 * 1024;

/** Registers the removal of the memory file, which is not complete. */
export function planPartialUndo(phases: Phases, memoryPath: string, discard: () => Promise<unknown>): void {
  const partial = partialOf(memoryPath);
  phases.onUndo(`removed ${partial}`, `rm ${shellQuote(partial)}`, discard);
}

/** Registers the undo of one disk's snapshot: one that fails does not prevent the others. @returns a function that forgets it */
export function planDiskUndo(
  phases: Phases,
  vdev: string,
  byHand: string,
  undo: () => Promise<unknown>,
): () => void {
  return phases.onUndo(`removed the snapshot of disk ${vdev}`, byHand, undo);
}

/** Registers the removal of a small file; another file in its place stays. */
export function planTextUndo(phases: Phases, path: string, sha256: string): void {
  phases.onUndo(`removed ${path}`, `rm ${shellQuote(path)}`, async () => {
    if (!(await isText(path, sha256))) return false;
    await rm(path, { force: true });
    return true;
  });
}

async function isText(path: string, sha256: string): Promise<boolean> {
  try {
    const { size } = await stat(path);
    return size <= MAX_TEXT_BYTES && digest(await readFile(path)) === sha256;
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Returns the SHA-256 in hexadecimal. */
export function digest(text: string | Uint8Array): string {
  return createHash('sha256').update(text).digest('hex');
}
