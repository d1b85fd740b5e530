/** Tells names of snapshots from paths of cfgfiles. */
import { stat } from 'node:fs/promises';
import { errnoCode } from '../core/errors.ts';

/** Tells whether an argument is the name of a snapshot: it has no slash, and there is no such file. */
export async function isSnapshotName(word: string): Promise<boolean> {
  if (word === '' || word.includes('/')) return false;
  try {
    await stat(word);
    return false;
  } catch (error) {
    return ['ENOENT', 'ENAMETOOLONG'].includes(errnoCode(error) ?? '');
  }
}
