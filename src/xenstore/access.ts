/** Reads and writes nodes of xenstore, inside or outside a transaction. */
import type { Limits } from '../core/deadline.ts';
import { UsageError } from '../core/errors.ts';
import type { XenstoreConnection, XenstoreRequest } from './connection.ts';
import { isXenstoreErrno, XenstoreProtocolError } from './errors.ts';
import { join, joinStrings, MESSAGE, splitStrings } from './wire.ts';

/** How often to restart reading a long list that changes while it is read. */
const MAX_LISTINGS = 20;

/**
 * Reads and writes nodes, inside or outside a transaction. Paths are absolute.
 * @throws {XenstoreRequestError} If xenstored refuses the request; it has the errno.
 * @throws {XenstoreTimeoutError} If xenstored does not answer in time.
 * @throws {XenstoreClosedError} If the connection ends.
 * @throws {InterruptedError} If the signal aborted.
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

  /** Returns the value of a node; ENOENT if there is none. */
  async readBytes(path: string, limits: Limits = this.#limits): Promise<Uint8Array> {
    return await this.#ask(MESSAGE.read, 'read', path, new Uint8Array(0), limits);
  }

  /**
   * Returns the value of a node as text.
   * @throws {XenstoreProtocolError} If it is not UTF-8.
   */
  async read(path: string, limits: Limits = this.#limits): Promise<string> {
    const value = await this.readBytes(path, limits);
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(value);
    } catch (cause) {
      throw new XenstoreProtocolError(`xenstore: the value of ${path} is not text`, { cause });
    }
  }

  /**
   * Returns the value of a node as text, or `undefined` if there is no such node. Bytes that are not UTF-8
   * become U+FFFD: a strange name of one domain must not break a search among all of them.
   */
  async readMaybe(path: string, limits: Limits = this.#limits): Promise<string | undefined> {
    try {
      return new TextDecoder('utf-8', { ignoreBOM: true }).decode(await this.readBytes(path, limits));
    } catch (error) {
      if (isXenstoreErrno(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  /** Sets a value, and creates the node and its parents if they are missing. */
  async write(path: string, value: string | Uint8Array, limits: Limits = this.#limits): Promise<void> {
    const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value;
    await this.#ask(MESSAGE.write, 'write', path, bytes, limits);
  }

  /** Returns the names of the children; ENOENT if there is no such node. */
  async list(path: string, limits: Limits = this.#limits): Promise<string[]> {
    try {
      return splitStrings(await this.#ask(MESSAGE.directory, 'list', path, new Uint8Array(0), limits));
    } catch (error) {
      if (!isXenstoreErrno(error, 'E2BIG')) throw error;
      return await this.#listInParts(path, limits);
    }
  }

  /** Returns the names of the children; none if there is no such node. */
  async listMaybe(path: string, limits: Limits = this.#limits): Promise<string[]> {
    try {
      return await this.list(path, limits);
    } catch (error) {
      if (isXenstoreErrno(error, 'ENOENT')) return [];
      throw error;
    }
  }

  /**
   * Lists more children than one message holds. Each answer has a generation, and the names from an offset
   * on; the last answer ends with an empty name. Another generation means that the list has changed (Xen:
   * docs/misc/xenstore.txt, DIRECTORY_PART).
   */
  async #listInParts(path: string, limits: Limits): Promise<string[]> {
    for (let attempt = 0; attempt < MAX_LISTINGS; attempt++) {
      const parts: Uint8Array[] = [];
      let offset = 0;
      let generation: string | undefined;
      for (;;) {
        const answer = await this.#ask(
          MESSAGE.directoryPart,
          'list',
          path,
          new TextEncoder().encode(`${offset}\0`),
          limits,
        );
        const end = answer.indexOf(0);
        if (end < 0)
          throw new XenstoreProtocolError(`xenstore: a part of the list of ${path} has no generation`);
        const now = new TextDecoder().decode(answer.subarray(0, end));
        if (generation !== undefined && now !== generation) break;
        generation = now;
        const names = answer.subarray(end + 1);
        const isLast = names.length < 2 || names.at(-2) === 0;
        parts.push(isLast ? names.subarray(0, -1) : names);
        if (isLast) return splitStrings(Buffer.concat(parts));
        offset += names.length;
      }
    }
    throw new XenstoreProtocolError(`xenstore: the list of ${path} keeps changing`);
  }

  /**
   * Removes a node and everything below it. A missing node is not an error, unless its parent is missing too
   * (ENOENT).
   */
  async remove(path: string, limits: Limits = this.#limits): Promise<void> {
    await this.#ask(MESSAGE.remove, 'remove', path, new Uint8Array(0), limits);
  }

  /** Creates an empty node. An existing one stays as it is. */
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

/**
 * Checks a path.
 * @throws {UsageError} If it is relative, or would change the meaning of the message.
 */
export function checkPath(path: string): string {
  if (!/^[/@]/.test(path) || path.includes('\0')) {
    throw new UsageError('XENSTORE_PATH', `not an absolute xenstore path: ${JSON.stringify(path)}`);
  }
  return path;
}
