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
  /** Pages that were written since the memory file that this one began as a clone of. */
  readonly trackedPages?: number;
  /** Why all memory was copied although `--track` was given. */
  readonly full?: string;
  /** Whether the guest is tracked now. */
  readonly tracking: boolean;
  readonly warnings: readonly string[];
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
      tracking: isRecord(result) && result['tracking'] === true,
      warnings: list(result, 'warnings').map(String),
      ...copyOf(isRecord(result) ? result['tracked'] : undefined),
    };
  } catch (cause) {
    throw new EnvironmentError('BENCH_RESULT', 'xlsnap did not print the result of a snapshot', { cause });
  }
}

/** Which part of the memory was copied. */
function copyOf(tracked: unknown): Pick<OwnResult, 'trackedPages' | 'full'> {
  if (tracked === undefined) return {};
  if (isRecord(tracked) && 'full' in tracked) return { full: String(tracked['message']) };
  return { trackedPages: number(tracked, 'pages') };
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
