/** Standard error that never blocks the process. */
import { constants, fstatSync, openSync, readFileSync, write, writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { errnoCode } from '../core/errors.ts';
import type { TextStream } from './context.ts';

/** Beyond this, text is dropped: its reader has stopped reading. */
const MAX_WAITING = 1024 * 1024;
const RETRY_MS = 50;

/** How text is written: at once, as far as there is space, or in another thread. */
type Way =
  | { readonly kind: 'now'; readonly fd: number }
  | { readonly kind: 'later'; readonly put: (bytes: Buffer, done: (error?: Error | null) => void) => void };

/**
 * Standard error, written to without waiting for its reader. A pipe that is full, a terminal that was stopped or a file
 * whose storage hangs would block this thread, and with it the signals and a suspended guest.
 */
export class PatientStream implements TextStream {
  readonly #fd: number;
  readonly #other: Pick<NodeJS.WriteStream, 'write' | 'columns'>;
  readonly isTTY: boolean;
  #way: Way | undefined;
  #queue: Buffer[] = [];
  #size = 0;
  #busy = false;
  #gone = false;
  #held = false;
  #timer: NodeJS.Timeout | undefined;

  /** @param other the same descriptor as node has it; takes what is written where that is a socket */
  constructor(fd: number, other: Pick<NodeJS.WriteStream, 'write' | 'columns'>) {
    this.#fd = fd;
    this.#other = other;
    this.isTTY = isatty(fd);
  }

  get columns(): number | undefined {
    return this.isTTY ? this.#other.columns : undefined;
  }

  /** Whether some of it has not been written yet. */
  get waiting(): boolean {
    return this.#queue.length > 0;
  }

  write(text: string): void {
    if (this.#gone || this.#size > MAX_WAITING) return;
    const bytes = Buffer.from(text);
    this.#queue.push(bytes);
    this.#size += bytes.length;
    if (this.#timer === undefined) this.#drain();
  }

  /** While a guest is stopped, writes nothing to a terminal that would stop this process for it. */
  hold(held: boolean): void {
    this.#held = held;
    if (!held) this.#drain();
  }

  /** Resolves once everything is written, or nobody can read it any more. */
  async flushed(): Promise<void> {
    while (this.waiting) {
      this.#drain();
      if (this.waiting) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  #drain(): void {
    this.#way ??= this.#choose();
    const way = this.#way;
    if (this.#held && this.isTTY && (way.kind === 'later' || !inForeground())) return;
    while (this.waiting && !this.#busy) {
      const bytes = this.#next();
      if (way.kind === 'later') {
        this.#busy = true;
        way.put(bytes, (error) => {
          this.#busy = false;
          if (error) this.#lose();
          else this.#written(bytes, bytes.length);
          this.#drain();
        });
        return;
      }
      try {
        this.#written(bytes, writeSync(way.fd, bytes));
      } catch (error) {
        if (errnoCode(error) === 'EAGAIN') {
          this.#retry();
          return;
        }
        this.#lose();
      }
    }
  }

  /** Joins everything that is waiting. */
  #next(): Buffer {
    const [first = Buffer.alloc(0)] = this.#queue;
    if (this.#queue.length <= 1) return first;
    const all = Buffer.concat(this.#queue);
    this.#queue = [all];
    return all;
  }

  #written(bytes: Buffer, count: number): void {
    this.#size -= count;
    if (count < bytes.length) this.#queue[0] = bytes.subarray(count);
    else this.#queue.shift();
  }

  /** Drops everything, since nobody reads it any more. */
  #lose(): void {
    this.#gone = true;
    this.#queue = [];
    this.#size = 0;
  }

  #retry(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#drain();
    }, RETRY_MS).unref();
  }

  #choose(): Way {
    const stat = fstatSync(this.#fd);
    if (stat.isFile()) return { kind: 'later', put: (bytes, done) => writeAll(this.#fd, bytes, done) };
    // Opened again: O_NONBLOCK on the inherited descriptor would affect all programs that share it.
    if (stat.isFIFO() || this.isTTY) {
      try {
        const flags = constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
        return { kind: 'now', fd: openSync(`/proc/self/fd/${this.#fd}`, flags) };
      } catch {
        // Nobody has its other end, or it may not be opened.
      }
    }
    // A socket cannot be opened again; node does not wait for its reader.
    return { kind: 'later', put: (bytes, done) => this.#other.write(bytes, done) };
  }
}

function writeAll(fd: number, bytes: Buffer, done: (error?: Error | null) => void): void {
  write(fd, bytes, (error, count) => {
    if (error !== null || count === bytes.length) done(error);
    else writeAll(fd, bytes.subarray(count), done);
  });
}

/** Tells whether this process is in the foreground: a terminal may stop background writers (`stty tostop`). */
function inForeground(): boolean {
  const fields = readFileSync('/proc/self/stat', 'latin1').split(') ').at(-1)?.split(' ') ?? [];
  // state, parent, process group, session, terminal, its foreground process group
  return fields[2] === fields[5];
}
