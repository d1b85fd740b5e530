/** A stand-in for QEMU's end of a QMP socket, for tests. */
import { createServer, type Server, type Socket } from 'node:net';
import { isRecord } from '../core/guards.ts';
import { LineSplitter, parseLine } from './wire.ts';

/** Thrown by a handler to make the stand-in refuse the command. */
export class FakeQmpRefusal extends Error {
  readonly errorClass: string;

  constructor(description: string, errorClass = 'GenericError') {
    super(description);
    this.errorClass = errorClass;
  }
}

/** Answers one command: returns the `return` value, throws FakeQmpRefusal, or never settles. */
export type FakeQmpHandler = (
  args: Readonly<Record<string, unknown>>,
  server: FakeQmpServer,
) => unknown | Promise<unknown>;

/** The greeting of QEMU 10.0.13 as in Debian 13. */
export const FAKE_GREETING: Readonly<Record<string, unknown>> = {
  QMP: {
    version: { qemu: { micro: 13, minor: 0, major: 10 }, package: 'Debian 1:10.0.13+ds-0+deb13u1' },
    capabilities: ['oob'],
  },
};

/**
 * Serves one client at a time, as QEMU does: another can connect, but is not greeted until the first has
 * gone.
 */
export class FakeQmpServer implements AsyncDisposable {
  readonly path: string;
  /** All commands received, including `qmp_capabilities`. */
  readonly received: { readonly execute: string; readonly arguments: unknown }[] = [];
  readonly #handlers: Readonly<Record<string, FakeQmpHandler>>;
  readonly #greeting: Readonly<Record<string, unknown>> | undefined;
  readonly #server: Server;
  readonly #waiting: Socket[] = [];
  #active: Socket | undefined;

  private constructor(
    path: string,
    handlers: Readonly<Record<string, FakeQmpHandler>>,
    greeting: Readonly<Record<string, unknown>> | undefined,
  ) {
    this.path = path;
    this.#handlers = { qmp_capabilities: () => ({}), ...handlers };
    this.#greeting = greeting;
    this.#server = createServer((socket) => {
      socket.on('error', () => {});
      this.#waiting.push(socket);
      this.#serveNext();
    });
  }

  /**
   * Listens on the unix socket `path`.
   * @param greeting `undefined` if clients are never to be greeted
   */
  static async listen(
    path: string,
    handlers: Readonly<Record<string, FakeQmpHandler>> = {},
    greeting: Readonly<Record<string, unknown>> | undefined = FAKE_GREETING,
  ): Promise<FakeQmpServer> {
    const fake = new FakeQmpServer(path, handlers, greeting);
    await new Promise<void>((resolve, reject) => {
      fake.#server.once('error', reject);
      fake.#server.listen(path, resolve);
    });
    return fake;
  }

  /** Sends an event to the client. */
  event(name: string, data: Readonly<Record<string, unknown>> = {}): void {
    this.send({ event: name, data, timestamp: { seconds: 1_700_000_000, microseconds: 250_000 } });
  }

  /** Sends any message. */
  send(message: Readonly<Record<string, unknown>>): void {
    this.sendRaw(`${JSON.stringify(message)}\r\n`);
  }

  /** Sends bytes unchanged. */
  sendRaw(bytes: string | Uint8Array): void {
    this.#active?.write(bytes);
  }

  /** Closes the connection to the client, as a QEMU that dies does. */
  hangUp(): void {
    this.#active?.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#waiting.splice(0)) socket.destroy();
    this.#active?.destroy();
    await closed;
  }

  #serveNext(): void {
    if (this.#active !== undefined) return;
    const socket = this.#waiting.shift();
    if (socket === undefined) return;
    this.#active = socket;
    const lines = new LineSplitter();
    socket.on('data', (chunk: Uint8Array) => {
      for (const line of lines.push(chunk)) void this.#answer(parseLine(line));
    });
    socket.on('close', () => {
      this.#active = undefined;
      this.#serveNext();
    });
    if (this.#greeting !== undefined) this.send(this.#greeting);
  }

  async #answer(command: Readonly<Record<string, unknown>>): Promise<void> {
    const { id } = command;
    const execute = String(command['execute']);
    const args = isRecord(command['arguments']) ? command['arguments'] : {};
    this.received.push({ execute, arguments: command['arguments'] });
    try {
      const handler = this.#handlers[execute];
      if (handler === undefined) {
        throw new FakeQmpRefusal(`The command ${execute} has not been found`, 'CommandNotFound');
      }
      this.send({ return: await handler(args, this), id });
    } catch (error) {
      const errorClass = error instanceof FakeQmpRefusal ? error.errorClass : 'GenericError';
      this.send({ id, error: { class: errorClass, desc: String((error as Error).message) } });
    }
  }
}
