/** The directory for what matters only until the next boot: on tmpfs, so that no storage that hangs can block it. */
import { lstatSync, mkdirSync } from 'node:fs';
import { EnvironmentError, errnoCode } from './errors.ts';

export const RUN_DIRECTORY = '/run/xlsnap';

/**
 * Makes the directory, mode 0700, if it is not there.
 * @param path another one, for tests
 * @returns its path
 * @throws {EnvironmentError} If it cannot be made, or other users could write to it
 */
export function runDirectory(path: string = RUN_DIRECTORY): string {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (cause) {
    if (errnoCode(cause) !== 'EEXIST') {
      throw new EnvironmentError('RUN_DIRECTORY', `cannot create directory ${path}`, {
        cause,
        hint: 'run it as root',
      });
    }
  }
  requireOwn(path);
  return path;
}

/**
 * Looks at the directory, without making it.
 * @returns whether it is there
 * @throws {EnvironmentError} If `runDirectory` does
 */
export function hasRunDirectory(path: string = RUN_DIRECTORY): boolean {
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return false;
  requireOwn(path);
  return true;
}

function requireOwn(path: string): void {
  const found = lstatSync(path);
  if (!found.isDirectory() || found.uid !== process.geteuid?.() || (found.mode & 0o077) !== 0) {
    throw new EnvironmentError('RUN_DIRECTORY', `${path} is not a directory that only root can use`, {
      hint: `check what it is; if it is not needed, remove it: rm -r ${path}`,
    });
  }
}
