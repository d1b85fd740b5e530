/** Requests and their answers, watches and their events, over one socket. */
import { createConnection, type Socket } from 'node:net';
import { type Limits, within } from '../core/deadline.ts';
import { errnoCode, throwIfAborted, UsageError } from '../core/errors.ts';
import {
  XenstoreClosedError,
  XenstoreConnectError,
  type XenstoreError,
  XenstoreProtocolError,
  XenstoreRequestError,
  XenstoreTimeoutError,
} from './errors.ts';
import {
  encodeMessage,
  MAX_PAYLOAD,
  MESSAGE,
  MessageSplitter,
  splitStrings,
  type XenstoreMessage,
} from './wire.ts';

/** Time limit for connecting and for each answer, in milliseconds. Overridden by `timeoutMs`. */
export const REQUEST_TIMEOUT_MS = 10_000;

/** One request. */
export interface XenstoreRequest {
  readonly type: number;
  /** What the request does and to what, for error messages. */
  readonly operation: string;
  readonly subject: string;
  readonly transactionId?: number;
  readonly payload: Uint8Array;
}

/** The receiver of a watch's events. */
export interface WatchTarget {
  event(path: string): void;
  end(error: Error): void;
}

interface Pending {
  readonly request: XenstoreRequest;
  readonly resolve: (payload: Uint8Array) => void;
  readonly reject: (error: XenstoreError) => void;
}

/** A connection to xenstored. Whatever ends it fails everything that is pending on it with the same error. */
export class XenstoreConnection {
  readonly path: string;
  readonly #socket: Socket;
  readonly #messages = new MessageSplitter();
  readonly #pending = new Map<number, Pending>();
  readonly #watches = new Map<string, WatchTarget>();
  #serial = 0;
  #end: XenstoreError | undefined;

  private constructor(path: string, socket: Socket) {
    this.path = path;
    this.#socket = socket;
    socket.on('data', (chunk: Uint8Array) => this.#receive(chunk));
    socket.on('error', (cause) =>
      this.#finish(new XenstoreClosedError(`the connection to xenstored broke: ${cause.message}`, { cause })),
    );
    socket.on('close', () => this.#finish(new XenstoreClosedError('xenstored closed the connection')));
  }

  /**
   * Opens a connection.
   * @throws {XenstoreConnectError} If xenstored cannot be reached.
   * @throws {InterruptedError} If the signal aborted.
   */
  static async open(path: string, limits: Limits): Promise<XenstoreConnection> {
    const { timeoutMs = REQUEST_TIMEOUT_MS, signal } = limits;
    throwIfAborted(signal);
    const socket = createConnection({ path });
    const connected = new Promise<void>((resolve, reject) => {
      socket.once('connect', () => resolve());
      socket.once('error', (cause) =>
        reject(
          new XenstoreConnectError(
            `cannot connect to xenstored at ${path}: ${errnoCode(cause) ?? cause.message}`,
            {
              cause,
              hint: 'run it as root in dom0, with xenstored running there (not in a stub domain)',
            },
          ),
        ),
      );
    });
    try {
      await within(
        connected,
        { timeoutMs, signal },
        () => new XenstoreConnectError(`no connection to xenstored at ${path} within ${timeoutMs} ms`),
      );
    } catch (error) {
      socket.destroy();
      throw error;
    }
    return new XenstoreConnection(path, socket);
  }

  /**
   * Sends a request, and returns the payload of the answer.
   * @throws {XenstoreRequestError} If xenstored refuses the request.
   * @throws {XenstoreTimeoutError} If it does not answer in time.
   * @throws {XenstoreClosedError} If the connection ends.
   * @throws {InterruptedError} If the signal aborted.
   * @throws {UsageError} If the payload is too long.
   */
  async request(request: XenstoreRequest, limits: Limits): Promise<Uint8Array> {
    const { timeoutMs = REQUEST_TIMEOUT_MS, signal } = limits;
    throwIfAborted(signal);
    if (this.#end !== undefined) throw this.#end;
    // xenstored closes the connection of a client that sends more.
    if (request.payload.length > MAX_PAYLOAD) {
      throw new UsageError(
        'XENSTORE_TOO_LONG',
        `xenstore: ${request.operation} ${request.subject}: ${request.payload.length} bytes, the limit is ${MAX_PAYLOAD}`,
      );
    }
    const requestId = this.#nextId();
    const answer = new Promise<Uint8Array>((resolve, reject) => {
      this.#pending.set(requestId, { request, resolve, reject });
    });
    const { type, transactionId = 0, payload } = request;
    this.#socket.write(encodeMessage({ type, requestId, transactionId, payload }));
    try {
      return await within(
        answer,
        { timeoutMs, signal },
        () =>
          new XenstoreTimeoutError(
            `xenstored did not answer ${request.operation} ${request.subject} within ${timeoutMs} ms`,
          ),
      );
    } finally {
      this.#pending.delete(requestId);
    }
  }

  /** Directs events with this token to `target` from now on. */
  addWatch(token: string, target: WatchTarget): void {
    if (this.#end !== undefined) target.end(this.#end);
    else this.#watches.set(token, target);
  }

  removeWatch(token: string): void {
    this.#watches.delete(token);
  }

  /** Returns a number that was not used before on this connection, for tokens. */
  nextToken(): string {
    return `xlsnap-${this.#nextId()}`;
  }

  async close(): Promise<void> {
    this.#finish(new XenstoreClosedError('the connection to xenstored was closed'));
    if (this.#socket.closed) return;
    await new Promise<void>((resolve) => this.#socket.once('close', () => resolve()));
  }

  /** Returns the next request id. It wraps at 2^32; 0 is reserved for events. */
  #nextId(): number {
    do {
      this.#serial = (this.#serial % 0xffff_ffff) + 1;
    } while (this.#pending.has(this.#serial));
    return this.#serial;
  }

  #receive(chunk: Uint8Array): void {
    try {
      for (const message of this.#messages.push(chunk)) {
        if (this.#end !== undefined) return;
        this.#dispatch(message);
      }
    } catch (error) {
      this.#finish(
        error instanceof XenstoreProtocolError
          ? error
          : new XenstoreProtocolError('a message from xenstored cannot be read', { cause: error }),
      );
    }
  }

  #dispatch(message: XenstoreMessage): void {
    if (message.type === MESSAGE.watchEvent) {
      const [path, token] = splitStrings(message.payload);
      if (path === undefined || token === undefined) {
        throw new XenstoreProtocolError('xenstored sent a watch event without path or token');
      }
      this.#watches.get(token)?.event(path);
      return;
    }
    // The answer to a request that was given up is dropped.
    const entry = this.#pending.get(message.requestId);
    if (entry === undefined) return;
    this.#pending.delete(message.requestId);
    const { type, operation, subject } = entry.request;
    if (message.type === MESSAGE.error) {
      entry.reject(
        new XenstoreRequestError(splitStrings(message.payload)[0] ?? 'unknown', operation, subject),
      );
    } else if (message.type === type) {
      entry.resolve(message.payload);
    } else {
      const error = new XenstoreProtocolError(
        `xenstored answered ${operation} ${subject} with type ${message.type}, expected ${type}`,
      );
      entry.reject(error);
      throw error;
    }
  }

  #finish(error: XenstoreError): void {
    if (this.#end !== undefined) return;
    this.#end = error;
    for (const entry of this.#pending.values()) entry.reject(error);
    this.#pending.clear();
    for (const target of this.#watches.values()) target.end(error);
    this.#watches.clear();
    this.#socket.destroy();
  }
}
