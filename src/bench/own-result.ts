/** Reads what `snapshot-create --json` prints. */
import { EnvironmentError } from '../core/errors.ts';
import { isRecord } from '../core/guards.ts';
import type { PhaseTiming } from '../memfile/manifest.ts';
import type { CopyRound } from '../snapshot/api.ts';

/** The part of `snapshot-create`'s result that the bench uses. */
export interface OwnResult {
  readonly callSeconds: number;
  readonly downtimeSeconds: number;
  readonly phases: readonly PhaseTiming[];
  readonly rounds?: readonly CopyRound[];
}

/**
 * Parses the standard output of `snapshot-create --json`.
 * @throws {EnvironmentError} If it is not the result of an xlsnap of this version.
 */
export function readOwnResult(stdout: string): OwnResult {
  try {
    const result: unknown = JSON.parse(stdout);
    const rounds = isRecord(result) && result['rounds'] !== undefined ? list(result, 'rounds') : undefined;
    return {
      callSeconds: number(result, 'total_seconds'),
      downtimeSeconds: number(result, 'downtime_seconds'),
      phases: list(result, 'phases').map((phase) => ({
        name: String(isRecord(phase) ? phase['name'] : undefined),
        startSeconds: number(phase, 'start_seconds'),
        seconds: number(phase, 'seconds'),
      })),
      ...(rounds === undefined
        ? {}
        : {
            rounds: rounds.map((round) => ({
              pages: number(round, 'pages'),
              seconds: number(round, 'seconds'),
              dirtyAfter: number(round, 'dirty_after'),
            })),
          }),
    };
  } catch (cause) {
    throw new EnvironmentError('BENCH_RESULT', 'xlsnap did not print the result of a snapshot', { cause });
  }
}

/** Finds out why `snapshot-create --json` failed: the message of its last error, or its other output. */
export function ownFailure(stderr: string): string {
  const lines = stderr.trim().split('\n');
  for (const line of [...lines].reverse()) {
    const entry = parseLine(line);
    if (isRecord(entry) && entry['message_type'] === 'error') return String(entry['message']);
  }
  // Node's own errors come with a stack trace and more.
  const errors = lines.filter((line) => /^\w*error\b/i.test(line));
  return (errors.length > 0 ? errors : lines).slice(-4).join('; ') || 'it printed nothing';
}

/** Lines that are not JSON come from Node itself. */
function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function number(value: unknown, key: string): number {
  const found = isRecord(value) ? value[key] : undefined;
  if (typeof found !== 'number' || !Number.isFinite(found)) throw new Error(`${key} is not a number`);
  return found;
}

function list(value: unknown, key: string): readonly unknown[] {
  const found: unknown = isRecord(value) ? value[key] : undefined;
  if (!Array.isArray(found)) throw new Error(`${key} is not a list`);
  return found as readonly unknown[];
}
