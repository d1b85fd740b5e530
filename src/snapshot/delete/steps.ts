/** The steps of a delete. Each does what is left of it, and may be done again, late, or after it was done by hand. */
import { rm, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoCode } from '../../core/errors.ts';
import { exists, syncDirectory } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { snapshotDirOf } from '../naming.ts';
import type { Host } from '../ports.ts';
import type { DeleteAction, DeleteRun } from './action.ts';
import { areDisksThere, diskActions } from './disks.ts';
import type { DeleteHead, DeleteStep, DoomedFile } from './journal.ts';

/** All steps in their order: the disks, the cfgfile, the memory file, the manifest. */
export function deleteActions(host: Host, head: DeleteHead, run: DeleteRun): readonly DeleteAction[] {
  return [
    ...diskActions(host, head, run),
    ...head.files.map((file) => ({
      what: `removed ${file.path}`,
      byHand: `rm ${shellQuote(file.path)}`,
      run: () => removeFile(file),
    })),
  ];
}

/** Tells whether all is there that a delete is to take away. */
export async function isUntouched(
  host: Host,
  head: DeleteHead,
  steps: readonly DeleteStep[],
): Promise<boolean> {
  // A merge writes to the base, which the memory needs as it was.
  if (steps.length > 0) return false;
  for (const file of head.files) if (!(await isFile(file))) return false;
  return await areDisksThere(host, head);
}

async function isFile({ path, inode }: DoomedFile): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.ino === inode;
}

async function removeFile(file: DoomedFile): Promise<boolean> {
  if (!(await isFile(file))) return false;
  await rm(file.path, { force: true });
  return true;
}

/** Makes the removal of files durable, before the journal goes. */
export async function syncRemoval({ memoryPath, overlays }: DeleteHead): Promise<void> {
  const paths = [memoryPath, ...overlays.map(({ overlay }) => overlay)];
  for (const directory of new Set(paths.map((path) => dirname(path)))) {
    if (await exists(directory)) await syncDirectory(directory);
  }
}

/** Removes the directory that a create makes for a domain, if there is nothing in it. */
export async function removeEmpty(host: Host, { memoryPath }: Pick<DeleteHead, 'memoryPath'>): Promise<void> {
  const directory = dirname(memoryPath);
  if (dirname(directory) !== snapshotDirOf(host)) return;
  try {
    await rmdir(directory);
  } catch (error) {
    // It makes no difference to anyone.
    if (errnoCode(error) === undefined) throw error;
  }
}
