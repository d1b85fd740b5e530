/** A QMP session over a unix socket (QEMU's docs/interop/qmp-spec). */
import { createConnection, type Socket } from 'node:net';
import { type Limits, within } from '../core/deadline.ts';
import { errnoCode, throwIfAborted } from '../core/errors.ts';
import {
  QmpClosedError,
  QmpCommandError,
  QmpConnectError,
  type QmpError,
  QmpProtocolError,
  QmpTimeoutError,
} from './errors.ts';
import { QmpListener } from './listener.ts';
import { classify, type QemuVersion, type QmpMessage } from './messages.ts';
import { formatLine, LineSplitter, parseLine } from './wire.ts';

/**
 * Time limit for connection, greeting and negotiation together, in milliseconds. Overridden by `timeoutMs`.
 */
export const CONNECT_TIMEOUT_MS = 5_000;
/** Time limit for the answer to a command, in milliseconds. Overridden by `timeoutMs`. */
export const COMMAND_TIMEOUT_MS = 60_000;

export type QmpState = 'idle' | 'connecting' | 'ready' | 'closed';

/** Arguments of a command; undefined members are not sent. */
export type QmpArguments = Readonly<Record<string, unknown>>;

interface Pending {
  readonly command: string;
  readonly args: QmpArguments | undefined;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: QmpError) => void;
}

/**
 * A session with one QEMU. Several commands may be in flight; each answer is matched to its command by id.
 * Whatever ends the session fails every pending command and listener with the same error. A closed client
 * cannot be opened again.
 */
export class QmpClient implements AsyncDisposable {
  /** Path of the socket. */
  readonly path: string;
  #state: QmpState = 'idle';
  #socket: Socket | undefined;
  #version: QemuVersion | undefined;
  #end: QmpError | undefined;
  #serial = 0;
  readonly #lines = new LineSplitter();
  readonly #pending = new Map<string, Pending>();
  readonly #listeners = new Set<QmpListener>();
  #greeted: { resolve: () => void; reject: (error: QmpError) => void } | undefined;

  constructor(path: string) {
    this.path = path;
  }

  /**
   * Creates a client and opens it.
   * @throws {QmpConnectError} And others, as `open` does.
   */
  static async connect(path: string, limits: Limits = {}): Promise<QmpClient> {
    const client = new QmpClient(path);
    await client.open(limits);
    return client;
  }

  /**
   * Connects to the first of `paths` that answers.
   * @throws {QmpConnectError} If none does; the message says what is wrong with each of them.
   */
  static async connectFirst(paths: readonly string[], limits: Limits = {}): Promise<QmpClient> {
    const failures: QmpError[] = [];
    for (const path of paths) {
      try {
        return await QmpClient.connect(path, limits);
      } catch (error) {
        if (!(error instanceof QmpConnectError || error instanceof QmpProtocolError)) throw error;
        failures.push(error);
      }
    }
    const hint = failures.find((failure) => failure.hint !== undefined)?.hint;
    throw new QmpConnectError(
      failures.every(({ code }) => code === 'QEMU_DIED') ? 'QEMU_DIED' : 'QMP_CONNECT',
      `QEMU cannot be reached: ${failures.map((failure) => failure.message).join('; ')}`,
      { cause: failures[0], hint },
    );
  }

  get state(): QmpState {
    return this.#state;
  }

  /** QEMU's version, from the greeting. */
  get version(): QemuVersion {
    if (this.#version === undefined) throw new QmpClosedError(`no QEMU has greeted on ${this.path}`);
    return this.#version;
  }

  /**
   * Connects, waits for the greeting, and leaves negotiation mode.
   * @throws {QmpConnectError} If there is no socket, nothing listens on it, or another client is connected.
   * @throws {QmpProtocolError} If the peer is not a QEMU.
   * @throws {InterruptedError} If the signal aborted.
   */
  async open(limits: Limits = {}): Promise<void> {
    const { timeoutMs = CONNECT_TIMEOUT_MS, signal } = limits;
    if (this.#state !== 'idle') throw new QmpClosedError(`the session on ${this.path} was opened before`);
    throwIfAborted(signal);
    this.#state = 'connecting';
    const greeting = new Promise<void>((resolve, reject) => {
      this.#greeted = { resolve, reject };
    });
    const socket = createConnection({ path: this.path });
    this.#socket = socket;
    socket.on('data', (chunk: Uint8Array) => this.#receive(chunk));
    socket.on('error', (cause) => this.#finish(this.#socketError(cause)));
    socket.on('close', () => this.#finish(new QmpClosedError(`QEMU closed the connection on ${this.path}`)));
    try {
      await within(
        greeting.then(() => this.#send('qmp_capabilities', undefined)),
        { timeoutMs, signal },
        () => this.#noGreeting(timeoutMs),
      );
    } catch (error) {
      await this.close();
      // A peer that hangs up before it is ready never had a session with us.
      if (error instanceof QmpClosedError || error instanceof QmpCommandError) {
        throw new QmpConnectError('QMP_CONNECT', error.message, { cause: error });
      }
      throw error;
    }
    this.#state = 'ready';
  }

  /**
   * Runs one command. After a time-out or an interruption, QEMU may still carry it out; its answer is
   * dropped.
   * @returns QEMU's `return` value, unchecked
   * @throws {QmpCommandError} If QEMU refuses the command.
   * @throws {QmpTimeoutError} If QEMU does not answer in time.
   * @throws {QmpClosedError} If the session is not open, or ends before the answer.
   * @throws {QmpProtocolError} If QEMU's answer is malformed.
   * @throws {InterruptedError} If the signal aborted.
   */
  async execute(command: string, args?: QmpArguments, limits: Limits = {}): Promise<unknown> {
    const { timeoutMs = COMMAND_TIMEOUT_MS, signal } = limits;
    throwIfAborted(signal);
    if (this.#state !== 'ready')
      throw this.#end ?? new QmpClosedError(`the session on ${this.path} is not open`);
    const id = this.#nextId();
    try {
      return await within(
        this.#send(command, args, id),
        { timeoutMs, signal },
        () =>
          new QmpTimeoutError(`QEMU did not answer ${command} within ${timeoutMs} ms`, {
            hint: 'QEMU may be waiting for storage; it may still carry the command out',
          }),
      );
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Starts to collect the named events. */
  listen(names: readonly string[]): QmpListener {
    const listener = new QmpListener(names, (gone) => this.#listeners.delete(gone));
    if (this.#end === undefined) this.#listeners.add(listener);
    else listener.end(this.#end);
    return listener;
  }

  /**
   * Ends the session; pending commands fail with QmpClosedError. May be called in any state, also repeatedly.
   */
  async close(): Promise<void> {
    this.#finish(new QmpClosedError(`the session on ${this.path} was closed`));
    const socket = this.#socket;
    if (socket === undefined || socket.closed) return;
    await new Promise<void>((resolve) => socket.once('close', () => resolve()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #nextId(): string {
    return `xlsnap-${this.#serial++}`;
  }

  #send(command: string, args: QmpArguments | undefined, id = this.#nextId()): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { command, args, resolve, reject });
      this.#socket?.write(formatLine({ execute: command, arguments: args, id }));
    });
  }

  #receive(chunk: Uint8Array): void {
    try {
      for (const line of this.#lines.push(chunk)) {
        if (this.#end !== undefined) return;
        if (line.trim() !== '') this.#dispatch(classify(parseLine(line)));
      }
    } catch (error) {
      this.#finish(
        error instanceof QmpProtocolError
          ? error
          : new QmpProtocolError(`an answer from ${this.path} cannot be read`, { cause: error }),
      );
    }
  }

  #dispatch(message: QmpMessage): void {
    if ((message.kind === 'greeting') !== (this.#version === undefined)) {
      throw new QmpProtocolError(
        message.kind === 'greeting'
          ? `a second greeting on ${this.path}`
          : `no greeting on ${this.path}: the first message is of kind ${message.kind}`,
      );
    }
    switch (message.kind) {
      case 'greeting':
        this.#version = message.version;
        this.#greeted?.resolve();
        return;
      case 'event':
        for (const listener of this.#listeners) listener.deliver(message.event);
        return;
      case 'return':
        this.#take(message.id)?.resolve(message.value);
        return;
      case 'error': {
        const entry = this.#take(message.id);
        entry?.reject(
          new QmpCommandError(message.errorClass, message.description, entry.command, entry.args),
        );
      }
    }
  }

  /** Removes and returns the pending command of an answer; undefined if the command was given up. */
  #take(id: string): Pending | undefined {
    const entry = this.#pending.get(id);
    this.#pending.delete(id);
    return entry;
  }

  #finish(error: QmpError): void {
    if (this.#end !== undefined) return;
    this.#end = error;
    this.#state = 'closed';
    this.#greeted?.reject(error);
    for (const entry of this.#pending.values()) entry.reject(error);
    this.#pending.clear();
    for (const listener of this.#listeners) listener.end(error);
    this.#listeners.clear();
    this.#socket?.destroy();
  }

  #socketError(cause: Error): QmpError {
    if (this.#version !== undefined) {
      return new QmpClosedError(`the connection on ${this.path} broke: ${cause.message}`, { cause });
    }
    const hints: Record<string, string> = {
      ENOENT: 'is the domain running, and does it have a QEMU (an emulated or qdisk disk)?',
      EACCES: 'run it as root',
      EAGAIN: BUSY_HINT,
    };
    const hint = hints[errnoCode(cause) ?? ''];
    if (errnoCode(cause) === 'ECONNREFUSED') {
      const message = `the QEMU of ${this.path} has exited`;
      return new QmpConnectError('QEMU_DIED', message, { cause, hint: DEAD_HINT });
    }
    return new QmpConnectError(
      'QMP_CONNECT',
      `cannot connect to ${this.path}: ${errnoCode(cause) ?? cause.message}`,
      {
        cause,
        hint,
      },
    );
  }

  #noGreeting(timeoutMs: number): QmpError {
    return new QmpConnectError(
      'QMP_BUSY',
      this.#version === undefined
        ? `no greeting from QEMU on ${this.path} within ${timeoutMs} ms: another client is connected, or QEMU hangs`
        : `QEMU on ${this.path} did not finish the negotiation within ${timeoutMs} ms`,
      { hint: BUSY_HINT },
    );
  }
}

/** The hint for the socket of a QEMU that was killed or has aborted: the socket stays. */
const DEAD_HINT =
  'the domain cannot run without it: xl destroy it, then start it again or revert it; its log is in /var/log/xen';
const BUSY_HINT =
  'a QMP socket serves one client at a time: find the other one with `ss -xp`, or try again later';

/** Returns where libxl puts a domain's QMP sockets; libxl itself does not use the first. */
export function qmpSocketPaths(domid: number, directory = '/var/run/xen'): string[] {
  return [`${directory}/qmp-libxenstat-${domid}`, `${directory}/qmp-libxl-${domid}`];
}
