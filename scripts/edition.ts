/** The time that generated files carry. */
import { execFileSync } from 'node:child_process';

/** Returns the time of the last commit in seconds, so that two builds of one commit are identical, or now. */
export function editionTime(): number {
  const seconds = process.env['SOURCE_DATE_EPOCH'] ?? commitTime();
  return seconds === undefined ? Math.floor(Date.now() / 1000) : Number(seconds);
}

function commitTime(): string | undefined {
  try {
    return execFileSync('git', ['log', '-1', '--format=%ct'], {
      cwd: import.meta.dirname,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
  } catch {
    return undefined;
  }
}
