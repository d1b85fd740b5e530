/** Takes file locks the way libxl does. */
import { constants } from 'node:fs';
import { lstat, open, unlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { EnvironmentError, errnoCode } from '../core/errors.ts';
import { LIBC } from './declarations.ts';
import { bind, loadKoffi } from './native.ts';

const LOCK_EX_NB = 2 | 4;
const EWOULDBLOCK = 11;
const POLL_MS = 20;
/** Length of `FileLock.note`'s line in bytes. */
const NOTE_BYTES = 64;

/** Never truncates, never follows a link. libuv adds O_CLOEXEC to every open. */
const OPEN_FLAGS = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;

/** A lock file that is held. Disposing of it removes the file and releases the lock, as libxl does. */
export interface FileLock extends AsyncDisposable {
  readonly path: string;
  /**
   * Writes a line about the holder into the file, replacing an earlier one.
   * @param line at most 63 bytes; padded with spaces
   */
  note(line: string): Promise<void>;
}

/**
 * Takes a lock file the way libxl does (tools/libs/light/libxl_internal.c: libxl__lock_file): flock(2) on a
 * file that its holder removes when it releases the lock, so the locked file must still be the one at the
 * path.
 *
 * It is called with LOCK_NB on this thread, so it never blocks.
 * @throws {EnvironmentError} If the lock is not free within `timeoutMs`, or the file cannot be created, or is
 * a symbolic link.
 */
export async function lockFile(path: string, timeoutMs: number): Promise<FileLock> {
  const { flock } = bind(await loadKoffi(), LIBC);
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const file = await open(path, OPEN_FLAGS, 0o600).catch((cause: unknown) => {
      throw new EnvironmentError('LOCK', `cannot open the lock ${path}`, { cause });
    });
    const { value, errno } = flock.callHere(file.fd, LOCK_EX_NB);
    if (value === 0) {
      if (await isSame(path, await file.stat())) {
        return {
          path,
          async note(line: string): Promise<void> {
            await file.write(`${line.padEnd(NOTE_BYTES - 1)}\n`, 0);
          },
          async [Symbol.asyncDispose](): Promise<void> {
            await unlink(path).catch(() => undefined);
            await file.close();
          },
        };
      }
    } else if (errno !== EWOULDBLOCK) {
      await file.close();
      throw new EnvironmentError('LOCK', `flock of ${path} failed with errno ${errno}`);
    }
    await file.close();
    if (performance.now() > deadline) {
      throw new EnvironmentError(
        'LOCK_BUSY',
        `${path} has been held by another program for ${timeoutMs / 1000} s`,
        {
          hint: 'wait for the xl command that is working on this domain',
        },
      );
    }
    await sleep(POLL_MS);
  }
}

async function isSame(path: string, locked: { dev: number; ino: number }): Promise<boolean> {
  try {
    const there = await lstat(path);
    return there.dev === locked.dev && there.ino === locked.ino;
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return false;
    throw error;
  }
}
