/** Locks a domain against other xlsnap processes on this host. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DomainError, EnvironmentError } from '../../core/errors.ts';
import { runDirectory } from '../../core/run-directory.ts';
import { lockFile } from '../../xenctrl/flock.ts';

interface LockOptions {
  /** What is done under the lock, for others to see. */
  readonly what: string;
  /** How long to wait for another process. Default: 0. */
  readonly timeoutMs?: number;
  /** Directory of the lock files. Default: `/run/xlsnap`. */
  readonly runDirectory?: string | undefined;
}

/**
 * Does what `Toolstack.lock` says, by one file for each key.
 * @throws {DomainError} If another process holds one of the locks (`DOMAIN_BUSY`)
 */
export async function lockDomain(keys: readonly string[], options: LockOptions): Promise<AsyncDisposable> {
  const taken: AsyncDisposable[] = [];
  const release = async (): Promise<void> => {
    for (const lock of taken.splice(0).reverse()) await lock[Symbol.asyncDispose]();
  };
  try {
    // All processes lock in the same order, so that no two wait for each other's keys.
    for (const key of [...new Set(keys)].sort()) taken.push(await lockKey(key, options));
  } catch (error) {
    await release();
    throw error;
  }
  return { [Symbol.asyncDispose]: release };
}

async function lockKey(
  key: string,
  { what, timeoutMs = 0, runDirectory: directory }: LockOptions,
): Promise<AsyncDisposable> {
  const path = join(runDirectory(directory), `lock-${encodeURIComponent(key)}`);
  try {
    const lock = await lockFile(path, timeoutMs);
    await lock.note(`${process.pid} ${what}`);
    return lock;
  } catch (error) {
    if (!(error instanceof EnvironmentError && error.code === 'LOCK_BUSY')) throw error;
    const text = await readFile(path, 'utf8').catch(() => '');
    const [, pid, holder] = /^([0-9]+) ([a-z-]{1,40}) *\n/.exec(text) ?? [];
    throw new DomainError(
      'DOMAIN_BUSY',
      `another xlsnap is working on the domain${pid === undefined ? '' : `: ${holder}, pid ${pid}`}`,
      {
        hint: 'wait for it to finish',
        data: pid === undefined ? {} : { pid: Number(pid), what: holder },
      },
    );
  }
}
