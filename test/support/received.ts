/** Readers of a memory stream, and what they have received. */
import { execFileSync } from 'node:child_process';
import { constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { BufferSource } from '../../src/core/byte-source.ts';
import { verifyStream } from '../../src/savefmt/index.ts';

/** FIFOs in a directory, created many at a time: starting `mkfifo` takes longer than a whole create. */
export class Fifos {
  readonly #directory: string;
  #made = 0;
  #left: string[] = [];

  constructor(directory: string) {
    this.#directory = directory;
  }

  next(): string {
    if (this.#left.length === 0) {
      this.#left = Array.from({ length: 100 }, () => join(this.#directory, `fifo${this.#made++}`));
      execFileSync('mkfifo', this.#left);
    }
    return this.#left.pop() ?? '';
  }
}

/** Collects whatever comes. */
export class Received implements Disposable {
  readonly #parts: Uint8Array[] = [];
  #socket: Socket | undefined;

  /** Reads from a FIFO. */
  static from(fifo: string): Received {
    const received = new Received();
    // Opened for writing too, so that it does not end before anyone else has opened it.
    const fd = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    const socket = new Socket({ fd, readable: true, writable: false });
    socket.on('data', (part) => received.#parts.push(part));
    received.#socket = socket;
    return received;
  }

  /** Receives as a sink does. */
  take(part: Uint8Array): void {
    this.#parts.push(part.slice());
  }

  /** Returns whether the stream is complete, and ends well. */
  async isWhole(): Promise<boolean> {
    // What is in the pipe still arrives in the next turn of the event loop.
    if (this.#socket !== undefined) for (let i = 0; i < 2; i++) await turn();
    return (await verifyStream(new BufferSource(Buffer.concat(this.#parts)))).ok;
  }

  [Symbol.dispose](): void {
    this.#socket?.destroy();
  }
}
