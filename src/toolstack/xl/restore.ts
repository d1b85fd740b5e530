/** Restores a domain with `xl restore`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants, createReadStream, openSync } from 'node:fs';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { EnvironmentError, errnoCode, throwIfAborted } from '../../core/errors.ts';
import { runDirectory } from '../../core/run-directory.ts';
import type { OnProgress } from '../../snapshot/ports.ts';
import { fifoName } from '../libxl/restorers.ts';
import { filePosition } from '../process/find.ts';
import { runProgram } from '../process/run.ts';
import { firstCause } from './restore-failure.ts';

/** The part of a save file after xl's header. */
export interface StreamPart {
  readonly path: string;
  /** Offset of the libxl stream in bytes. */
  readonly start: number;
}

/** A stream with another header before it. */
export interface PipedStream extends StreamPart {
  readonly header: Uint8Array;
  /** Uuid of the domain. */
  readonly uuid: string;
}

const MAX_STDERR = 64 * 1024;
/** Bytes read at a time; a pipe takes 64 KiB at a time. */
const CHUNK = 1 << 20;
const POLL_MS = 10;
/** Interval in milliseconds between looks at how far xl has read. */
const WATCH_MS = 250;
/** How long xl may take to exit on request, in milliseconds. */
const TERM_MS = 10_000;
/** How long to wait for the last output of a failed xl, in milliseconds. */
const LAST_WORDS_MS = 1000;

/**
 * Runs `xl restore -p`, on an unchanged file, or on a FIFO with another header before the rest of the file.
 * Returns when xl has done its work and left its monitor in the background, or is dead.
 * @param runPath where the FIFO is created. Default: `/run/xlsnap`.
 * @param onProgress is called with what xl has read of the file
 * @throws {EnvironmentError} If xl fails; with xl's words.
 * @throws {InterruptedError} If the signal aborted.
 */
export async function xlRestore(
  from: string | PipedStream,
  signal: AbortSignal | undefined,
  runPath?: string,
  onProgress: OnProgress = () => {},
): Promise<void> {
  throwIfAborted(signal);
  if (typeof from === 'string') return await runRestore(from, undefined, signal, onProgress);
  // xl opens what it restores by name, and Node's own pipes to a child are sockets, which cannot be opened.
  // The directory is that of the locks, so it existed before the domain was destroyed; TMPDIR may name a missing one.
  const directory = await mkdtemp(join(runDirectory(runPath), 'fifo-'));
  try {
    const fifo = join(directory, fifoName(from.uuid));
    const { status, stderr } = await runProgram('mkfifo', ['-m', '600', fifo], { timeoutMs: 10_000 });
    if (status !== 0) throw new EnvironmentError('XL_RESTORE', `cannot create the FIFO ${fifo}: ${stderr}`);
    await runRestore(fifo, from, signal, onProgress);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function runRestore(
  path: string,
  content: PipedStream | undefined,
  signal: AbortSignal | undefined,
  onProgress: OnProgress,
): Promise<void> {
  const child = spawn('xl', ['restore', '-p', path], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-MAX_STDERR);
  });
  const said = once(child.stderr, 'end').catch(() => undefined);
  // xl and what it has started must be dead before anyone touches the partly built domain.
  let last: NodeJS.Timeout | undefined;
  const stop = (): void => {
    child.kill();
    last = setTimeout(() => child.kill('SIGKILL'), TERM_MS);
  };
  signal?.addEventListener('abort', stop, { once: true });
  // Not `close`: xl's monitor, which stays, may hold the streams.
  const exit = once(child, 'exit').then(([code]: unknown[]) => code);
  const over = new AbortController();
  const fed = content === undefined ? undefined : feed(path, content, child, over.signal, onProgress);
  const watch = content === undefined ? watchFile(child, path, onProgress) : undefined;
  try {
    const code = await exit.catch((cause: unknown) => {
      throw new EnvironmentError('XL_RESTORE', 'xl restore could not be run', { cause });
    });
    throwIfAborted(signal);
    if (code === 0) return;
    over.abort();
    const cause = await fed;
    // On a busy machine the time may be over before xl's output has been read: one more turn of the event
    // loop reads it.
    await Promise.race([said, sleep(LAST_WORDS_MS).then(() => turn())]);
    throw new EnvironmentError(
      'XL_RESTORE',
      `xl restore exited with status ${String(code)}: ${firstCause(complaint)}`,
      {
        cause,
        data: { stderr: complaint },
        hint: 'xl -vvv restore shows more; so do the logs in /var/log/xen',
      },
    );
  } finally {
    signal?.removeEventListener('abort', stop);
    clearTimeout(last);
    clearInterval(watch);
    over.abort();
    await fed;
    child.stderr.destroy();
  }
}

/** Reports how far xl has read the file: what it starts reads by the same descriptor. */
function watchFile({ pid }: ChildProcess, path: string, onProgress: OnProgress): NodeJS.Timeout | undefined {
  if (pid === undefined) return undefined;
  const look = async (): Promise<void> => {
    const [done, { size }] = await Promise.all([filePosition(pid, path), stat(path)]);
    if (done !== undefined) onProgress(done, size);
  };
  return setInterval(() => void look().catch(() => {}), WATCH_MS);
}

/**
 * Writes the content to the FIFO once xl has opened it, until xl closes it or `over` says that xl has exited.
 * @returns why the content could not be read, if so; xl then sees the stream end early
 */
async function feed(
  fifo: string,
  content: PipedStream,
  child: ChildProcess,
  over: AbortSignal,
  onProgress: OnProgress,
): Promise<unknown> {
  try {
    const fd = await openForWriting(fifo, child, over);
    if (fd === undefined) return undefined;
    const sink = new Socket({ fd, readable: false, writable: true });
    await pipeline(pieces(content, onProgress), sink, { signal: over });
    return undefined;
  } catch (error) {
    // xl hangs up when it rejects what it reads; its own words say more.
    return over.aborted || errnoCode(error) === 'EPIPE' ? undefined : error;
  }
}

/** Opens the FIFO. Without O_NONBLOCK, the open would wait forever if xl exits before it opens its end. */
async function openForWriting(
  fifo: string,
  child: ChildProcess,
  over: AbortSignal,
): Promise<number | undefined> {
  while (!over.aborted && child.exitCode === null) {
    try {
      return openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (errnoCode(error) !== 'ENXIO') throw error;
    }
    await sleep(POLL_MS);
  }
  return undefined;
}

async function* pieces(
  { path, start, header }: PipedStream,
  onProgress: OnProgress,
): AsyncGenerator<Uint8Array> {
  yield header;
  const { size } = await stat(path);
  let done = start;
  for await (const chunk of createReadStream(path, { start, highWaterMark: CHUNK })) {
    yield chunk as Uint8Array;
    // It has been taken.
    done += (chunk as Uint8Array).length;
    onProgress(done, size);
  }
}
