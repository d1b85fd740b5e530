import type { Limits } from '../core/deadline.ts';
import { UsageError } from '../core/errors.ts';
import type { XenstoreConnection, XenstoreRequest } from './connection.ts';
import { isXenstoreErrno, XenstoreProtocolError } from './errors.ts';
import { join, joinStrings, MESSAGE, splitStrings } from './wire.ts';

/**
 * Reading and writing nodes, inside a transaction or outside. Paths are absolute.
 * All methods throw XenstoreRequestError (with errno), XenstoreTimeoutError, XenstoreClosedError, InterruptedError.
 */
export class XenstoreAccess {
  readonly #connection: XenstoreConnection;
  readonly #transactionId: number;
  readonly #limits: Limits;

  constructor(connection: XenstoreConnection, transactionId: number, limits: Limits) {
    this.#connection = connection;
    this.#transactionId = transactionId;
    this.#limits = limits;
  }

  /** The value of a node; ENOENT when there is none. */
  async readBytes(path: string, limits: Limits = this.#limits): Promise<Uint8Array> {
    return await this.#ask(MESSAGE.read, 'read', path, new Uint8Array(0), limits);
  }

  /**
   * The value of a node as text.
   * @throws XenstoreProtocolError when it is not UTF-8.
   */
  async read(path: string, limits: Limits = this.#limits): Promise<string> {
    const value = await this.readBytes(path, limits);
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(value);
    } catch (cause) {
      throw new XenstoreProtocolError(`xenstore: the value of ${path} is no text`, { cause });
    }
  }

  /** The value as text, undefined when there is no such node. */
  async readMaybe(path: string, limits: Limits = this.#limits): Promise<string | undefined> {
    try {
      return await this.read(path, limits);
    } catch (error) {
      if (isXenstoreErrno(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  /** Sets a value; makes the node and its parents when they are missing. */
  async write(path: string, value: string | Uint8Array, limits: Limits = this.#limits): Promise<void> {
    const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value;
    await this.#ask(MESSAGE.write, 'write', path, bytes, limits);
  }

  /** Names of the children; ENOENT when there is no such node, E2BIG when they do not fit into 4096 bytes. */
  async list(path: string, limits: Limits = this.#limits): Promise<string[]> {
    return splitStrings(await this.#ask(MESSAGE.directory, 'list', path, new Uint8Array(0), limits));
  }

  /** Removes a node and all below it; none there is no error, unless its parent is missing too (ENOENT). */
  async remove(path: string, limits: Limits = this.#limits): Promise<void> {
    await this.#ask(MESSAGE.remove, 'remove', path, new Uint8Array(0), limits);
  }

  /** Makes an empty node; one that is there is left as it is. */
  async mkdir(path: string, limits: Limits = this.#limits): Promise<void> {
    await this.#ask(MESSAGE.mkdir, 'mkdir', path, new Uint8Array(0), limits);
  }

  #ask(type: number, operation: string, path: string, rest: Uint8Array, limits: Limits): Promise<Uint8Array> {
    const request: XenstoreRequest = {
      type,
      operation,
      subject: path,
      transactionId: this.#transactionId,
      payload: join(joinStrings(checkPath(path)), rest),
    };
    return this.#connection.request(request, limits);
  }
}

/** @throws UsageError for a path that is relative, or would change the meaning of the message. */
export function checkPath(path: string): string {
  if (!/^[/@]/.test(path) || path.includes('\0')) {
    throw new UsageError('XENSTORE_PATH', `not an absolute xenstore path: ${JSON.stringify(path)}`);
  }
  return path;
}
