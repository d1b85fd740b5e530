/** Readers of a stream of memory, and what they have got of it. */
import { execFileSync } from 'node:child_process';
import { constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { BufferSource } from '../../src/core/byte-source.ts';
import { verifyStream } from '../../src/savefmt/index.ts';

/** FIFOs in a directory, made many at a time: starting `mkfifo` takes longer than a whole create. */
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

/** Takes whatever comes. */
export class Received implements Disposable {
  readonly #parts: Uint8Array[] = [];
  #socket: Socket | undefined;

  /** Reads from a FIFO. */
  static from(fifo: string): Received {
    const received = new Received();
    // For writing too, so that it does not end while nobody else has opened it.
    const fd = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    const socket = new Socket({ fd, readable: true, writable: false });
    socket.on('data', (part) => received.#parts.push(part));
    received.#socket = socket;
    return received;
  }

  /** As a sink does. */
  take(part: Uint8Array): void {
    this.#parts.push(part.slice());
  }

  /** Whether it is a whole stream, which ends well. */
  async isWhole(): Promise<boolean> {
    // What is in the pipe still comes in the next turn of the event loop, whatever the one under way is at.
    if (this.#socket !== undefined) for (let i = 0; i < 2; i++) await turn();
    return (await verifyStream(new BufferSource(Buffer.concat(this.#parts)))).ok;
  }

  [Symbol.dispose](): void {
    this.#socket?.destroy();
  }
}
