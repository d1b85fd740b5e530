import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { EnvironmentError, errnoCode, throwIfAborted } from '../core/errors.ts';

/** The part of a save file that follows xl's header. */
export interface StreamPart {
  readonly path: string;
  /** Offset in octets of the libxl stream. */
  readonly start: number;
}

/** What comes before it. */
export interface PipedStream extends StreamPart {
  readonly header: Uint8Array;
}

const MAX_STDERR = 64 * 1024;
/** Read in pieces of this size; a pipe takes 64 KiB at a time. */
const CHUNK = 1 << 20;

/**
 * Runs `xl restore -p`, on a file as it is or on a pipe that gives another header before the rest of the file.
 * Ends when xl has done its work and left its monitor in the background.
 * @throws EnvironmentError with xl's words when it fails, InterruptedError
 */
export async function xlRestore(from: string | PipedStream, signal: AbortSignal | undefined): Promise<void> {
  throwIfAborted(signal);
  const piped = typeof from !== 'string';
  const child = spawn('xl', ['restore', '-p', piped ? '/proc/self/fd/0' : from], {
    stdio: [piped ? 'pipe' : 'ignore', 'ignore', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
    ...(signal === undefined ? {} : { signal }),
  });
  let complaint = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-MAX_STDERR);
  });
  // Not `close`: xl's monitor, which stays, may hold the streams.
  const exit = once(child, 'exit').then(([code]: unknown[]) => code);
  const feed = child.stdin === null || !piped ? Promise.resolve() : pipeline(pieces(from), child.stdin);
  // xl hangs up when it does not like what it reads; its own words say more than EPIPE.
  const fed = feed.catch((error: unknown) =>
    errnoCode(error) === 'EPIPE' ? undefined : Promise.reject(error),
  );
  let code: unknown;
  try {
    [code] = await Promise.all([exit, fed]);
  } catch (cause) {
    child.kill();
    throwIfAborted(signal);
    throw new EnvironmentError('XL_RESTORE', 'xl restore could not be run or fed', { cause });
  } finally {
    child.stderr?.destroy();
  }
  throwIfAborted(signal);
  if (code !== 0) {
    throw new EnvironmentError(
      'XL_RESTORE',
      `xl restore ended with status ${String(code)}: ${summary(complaint)}`,
      {
        data: { stderr: complaint },
        hint: 'xl -vvv restore says more; so do the logs in /var/log/xen',
      },
    );
  }
}

async function* pieces({ path, start, header }: PipedStream): AsyncGenerator<Uint8Array> {
  yield header;
  for await (const chunk of createReadStream(path, { start, highWaterMark: CHUNK }))
    yield chunk as Uint8Array;
}

/** xl's errors, without its progress. */
function summary(complaint: string): string {
  const lines = complaint.trim().split('\n');
  const errors = lines.filter((line) => /error|fail|cannot|unable/i.test(line));
  return (errors.length > 0 ? errors : lines).slice(-4).join('; ') || 'it said nothing';
}
