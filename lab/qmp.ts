/** A small QMP client for the lab's own QEMU. */
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { LabError } from './errors.ts';

type Json = Readonly<Record<string, unknown>>;

/** The part of QMP that the lab's own QEMU needs. */
export class Qmp {
  readonly #socket: Socket;
  readonly #answers: AsyncIterator<string>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#answers = createInterface({ input: socket, crlfDelay: Number.POSITIVE_INFINITY })[
      Symbol.asyncIterator
    ]();
  }

  static async connect(path: string): Promise<Qmp> {
    const socket = createConnection(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const qmp = new Qmp(socket);
    socket.on('error', () => socket.destroy());
    await qmp.#next(); // the greeting
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  async execute(command: string, args: Json = {}): Promise<unknown> {
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    for (;;) {
      const answer = await this.#next();
      if ('error' in answer) throw new LabError('boot', `QMP ${command}: ${JSON.stringify(answer['error'])}`);
      if ('return' in answer) return answer['return'];
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  async #next(): Promise<Json> {
    const { value, done } = await this.#answers.next();
    if (done === true || typeof value !== 'string') throw new LabError('boot', 'QEMU closed its QMP socket');
    const json: unknown = JSON.parse(value);
    return isObject(json) ? json : {};
  }
}

export function isObject(json: unknown): json is Json {
  return typeof json === 'object' && json !== null && !Array.isArray(json);
}
