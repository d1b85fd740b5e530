/** A lock file, so that only one process uses the lab. */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, LabError } from './errors.ts';
import { isAlive, type ProcessId, processId } from './proc.ts';
import type { Say } from './timings.ts';

interface Holder extends ProcessId {
  readonly what: string;
}

/** Runs `job` while this process alone holds the lock file. A dead holder's lock is taken over. */
export async function withLock<T>(
  file: string,
  what: string,
  say: Say,
  job: () => Promise<T>,
  timeoutMs = 20 * 60_000,
): Promise<T> {
  const own = processId(process.pid);
  if (own === undefined) throw new LabError('host', 'no /proc/PID/stat');
  const temporary = `${file}.${process.pid}`;
  const holder: Holder = { ...own, what };
  const end = Date.now() + timeoutMs;
  let told = false;
  for (;;) {
    writeFileSync(temporary, JSON.stringify(holder));
    try {
      linkSync(temporary, file); // all or nothing
      break;
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
    } finally {
      rmSync(temporary, { force: true });
    }
    const other = readHolder(file);
    if (other === undefined || !isAlive(other)) {
      // Moves it away first: of two processes that see the same dead holder, only one finds the file.
      try {
        renameSync(file, `${temporary}.stale`);
        const moved = readHolder(`${temporary}.stale`);
        if (moved !== undefined && isAlive(moved)) linkSync(`${temporary}.stale`, file);
        else if (other !== undefined) say(`took over the lock of process ${other.pid}, which has exited`);
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'EEXIST') throw error;
      } finally {
        rmSync(`${temporary}.stale`, { force: true });
      }
      continue;
    }
    if (!told) {
      say(`waiting for process ${other.pid}, which is busy: ${other.what}`);
      told = true;
    }
    if (Date.now() > end) {
      throw new LabError('timeout', `process ${other.pid} has held ${file} for too long (${other.what})`);
    }
    await sleep(300);
  }
  try {
    return await job();
  } finally {
    rmSync(file, { force: true });
  }
}

function readHolder(file: string): Holder | undefined {
  try {
    const json: unknown = JSON.parse(readFileSync(file, 'utf8'));
    if (typeof json !== 'object' || json === null) return undefined;
    if (!('pid' in json) || !('start' in json) || !('what' in json)) return undefined;
    const { pid, start, what } = json;
    if (typeof pid !== 'number' || typeof start !== 'string' || typeof what !== 'string') return undefined;
    return { pid, start, what };
  } catch {
    return undefined;
  }
}
