/** A memory file that is written to standard output, a FIFO, a device or a sink. */
import { constants, fstatSync, openSync, type Stats } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { Socket } from 'node:net';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { isatty } from 'node:tty';
import { within } from '../../core/deadline.ts';
import { errnoCode, InterruptedError, OutputError, throwIfAborted } from '../../core/errors.ts';
import type { MemorySink } from '../api.ts';
import type { MemoryOutput } from './file.ts';

/** Values of `memory_path` that mean standard output. */
const STDOUT_PATHS: readonly string[] = ['/dev/stdout', '/dev/fd/1', '/proc/self/fd/1'];
const STDOUT_PATH = '/proc/self/fd/1';
/** How often to retry a FIFO that has no reader yet. */
const POLL_MS = 50;

/** Whether a `memory_path` is standard output of this process, whatever that is. */
export function isStdout(path: string): boolean {
  return STDOUT_PATHS.includes(path);
}

/** Whether what is written to a path can only be appended: standard output, a FIFO, or a device such as a tape. */
export async function isStream(path: string): Promise<boolean> {
  if (isStdout(path)) return true;
  try {
    const found = await stat(path);
    return found.isFIFO() || found.isCharacterDevice();
  } catch {
    // The preflight looks at paths, and reports what is wrong with them.
    return false;
  }
}

interface Target {
  /** The bytes may be changed once the promise is settled. */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends the output once everything is written. */
  end(options: { readonly sync: boolean }): Promise<void>;
  /** Gives up the output. */
  abort(): Promise<void>;
  /** Ends a `write` that is not over yet, so that what is left of it goes nowhere; gives whether there was one. */
  readonly cancel?: (() => boolean) | undefined;
}

/** A memory file as a stream: bytes that go to a pipe, a device or a caller's sink, in order. */
export class StreamOutput implements MemoryOutput {
  readonly #name: string;
  readonly #target: Target;
  readonly #signal: AbortSignal | undefined;
  #offset = 0;

  private constructor(name: string, target: Target, signal: AbortSignal | undefined) {
    this.#name = name;
    this.#target = target;
    this.#signal = signal;
  }

  /**
   * Opens standard output, a FIFO or a device; waits until someone reads from the FIFO.
   * @throws {OutputError} If it is a terminal or cannot be opened
   * @throws {InterruptedError} If the signal is aborted
   */
  static async open(path: string, signal: AbortSignal | undefined): Promise<StreamOutput> {
    try {
      return new StreamOutput(path, await openTarget(path, signal), signal);
    } catch (error) {
      if (error instanceof OutputError || error instanceof InterruptedError) throw error;
      throw new OutputError('OUTPUT_CREATE', `cannot write to ${path}`, { cause: error });
    }
  }

  /** Writes to a sink of the caller's, which is neither ended nor destroyed. */
  static of(sink: MemorySink, signal: AbortSignal | undefined): StreamOutput {
    const write =
      typeof sink === 'function'
        ? sink
        : // A Writable may keep what it has got; the engine uses its buffers again.
          async (bytes: Uint8Array) => await writeTo(sink, bytes.slice());
    const nothing = async (): Promise<void> => {};
    return new StreamOutput('the sink', { write, end: nothing, abort: nothing }, signal);
  }

  /**
   * Appends.
   * @throws {RangeError} If `position` is not the end
   * @throws {OutputError} If it fails
   * @throws {InterruptedError} If the signal is aborted, even if nobody reads
   */
  async writeAt(bytes: Uint8Array, position: number): Promise<void> {
    if (position !== this.#offset) throw new RangeError(`offset ${position} of a stream at ${this.#offset}`);
    throwIfAborted(this.#signal);
    try {
      await within(this.#target.write(bytes), { signal: this.#signal }, () => new Error('no limit'));
    } catch (error) {
      if (error instanceof InterruptedError) throw error;
      throw this.#failed(error);
    }
    this.#offset += bytes.length;
  }

  /**
   * Appends the bytes that complete it. If the signal is aborted in the meantime, a pipe is closed, and then its reader does not
   * have them; on a device or a sink they cannot be undone, so this waits for the outcome.
   * @throws {OutputError} If it fails; the stream is not complete then
   * @throws {InterruptedError} If the signal is aborted; the stream is not complete then
   */
  async writeLast(bytes: Uint8Array): Promise<void> {
    throwIfAborted(this.#signal);
    let cancelled = false;
    const cancel = (): void => {
      cancelled = this.#target.cancel?.() === true;
    };
    this.#signal?.addEventListener('abort', cancel, { once: true });
    try {
      await this.#target.write(bytes);
      if (cancelled) throwIfAborted(this.#signal);
    } catch (error) {
      throwIfAborted(this.#signal);
      throw this.#failed(error);
    } finally {
      this.#signal?.removeEventListener('abort', cancel);
    }
    this.#offset += bytes.length;
  }

  async sizes(): Promise<{ fileBytes: number; allocatedBytes: number }> {
    return { fileBytes: this.#offset, allocatedBytes: 0 };
  }

  /** The reader has got everything, or will. The signal is ignored: nothing can be undone any more. */
  async commit({ sync = true }: { readonly sync?: boolean } = {}): Promise<void> {
    try {
      await this.#target.end({ sync });
    } catch (error) {
      throw this.#failed(error);
    }
  }

  async discard(): Promise<void> {
    await this.#target.abort();
  }

  #failed(cause: unknown): OutputError {
    const gone = errnoCode(cause) === 'EPIPE';
    return new OutputError('OUTPUT_WRITE', `cannot write to ${this.#name}`, {
      cause,
      offset: this.#offset,
      hint: gone ? 'the program that reads it has exited; see what it reported' : undefined,
    });
  }
}

async function openTarget(path: string, signal: AbortSignal | undefined): Promise<Target> {
  const stdout = isStdout(path);
  const found = stdout ? fstatSync(1) : await stat(path);
  // A socket has no name that could be opened; Node's children have them for pipes.
  if (stdout && found.isSocket()) return socketTarget(process.stdout, false);
  const name = stdout ? STDOUT_PATH : path;
  if (found.isFIFO()) {
    const fd = await openPipe(name, signal);
    return socketTarget(new Socket({ fd, readable: false, writable: true }), true);
  }
  // Appending: a shell's `>>` keeps what is there, and its `>` has emptied it.
  const handle = await open(name, constants.O_WRONLY | constants.O_APPEND);
  if (found.isCharacterDevice() && isatty(handle.fd)) {
    await handle.close();
    throw new OutputError(
      'OUTPUT_TERMINAL',
      `${path} is a terminal: a guest's memory is not written to one`,
      {
        hint: 'send it to a program or a file: xlsnap snapshot-create … | ssh host "cat > guest.save"',
      },
    );
  }
  return fileTarget(handle, found);
}

/**
 * Opens a pipe to write, as soon as someone reads from it. The file description is its own, also that of standard output, so
 * that O_NONBLOCK affects no other program.
 * @returns the descriptor, which the Socket closes that gets it
 */
async function openPipe(path: string, signal: AbortSignal | undefined): Promise<number> {
  for (;;) {
    throwIfAborted(signal);
    try {
      return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (errnoCode(error) !== 'ENXIO') throw error;
    }
    await sleep(POLL_MS);
  }
}

/**
 * A pipe or socket: the event loop waits for its reader, so that signals are handled in the meantime.
 * @param own it is ended and destroyed
 */
function socketTarget(stream: Writable, own: boolean): Target {
  // Each write reports its own failure.
  const ignore = (): void => {};
  stream.on('error', ignore);
  return {
    write: (bytes) => writeTo(stream, bytes),
    end: async () => {
      if (own) await new Promise<void>((resolve) => stream.end(resolve));
      else stream.off('error', ignore);
    },
    abort: async () => {
      if (own) stream.destroy();
    },
    cancel: own ? () => cancelWrite(stream) : undefined,
  };
}

/** Once the stream is destroyed, Node calls back without an error, whatever has become of the bytes. */
function cancelWrite(stream: Writable): boolean {
  // The kernel has them all, and the callback is on its way.
  if (stream.writableLength === 0) return false;
  stream.destroy();
  return true;
}

function fileTarget(handle: FileHandle, found: Stats): Target {
  return {
    write: async (bytes) => {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, null);
        done += bytesWritten;
      }
    },
    end: async ({ sync }) => {
      if (sync && found.isFile()) await handle.datasync();
      await handle.close();
    },
    abort: async () => {
      await handle.close().catch(() => undefined);
    },
  };
}

function writeTo(stream: Writable, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(bytes, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}
