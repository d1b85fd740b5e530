import type { Limits } from '../core/deadline.ts';
import { UsageError } from '../core/errors.ts';
import type { XenstoreConnection, XenstoreRequest } from './connection.ts';
import { isXenstoreErrno, XenstoreProtocolError } from './errors.ts';
import { join, joinStrings, MESSAGE, splitStrings } from './wire.ts';

/** How often a long list that changes while it is read is begun again. */
const MAX_LISTINGS = 20;

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
      throw new XenstoreProtocolError(`xenstore: the value of ${path} is not text`, { cause });
    }
  }

  /**
   * The value as text, `undefined` if there is no such node. What is not UTF-8 becomes U+FFFD: one domain's strange name must not
   * break a search among all of them.
   */
  async readMaybe(path: string, limits: Limits = this.#limits): Promise<string | undefined> {
    try {
      return new TextDecoder('utf-8', { ignoreBOM: true }).decode(await this.readBytes(path, limits));
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

  /** Names of the children; ENOENT if there is no such node. */
  async list(path: string, limits: Limits = this.#limits): Promise<string[]> {
    try {
      return splitStrings(await this.#ask(MESSAGE.directory, 'list', path, new Uint8Array(0), limits));
    } catch (error) {
      if (!isXenstoreErrno(error, 'E2BIG')) throw error;
      return await this.#listInParts(path, limits);
    }
  }

  /**
   * Lists more children than one message holds. Each answer is a generation, and names from an offset on; the last one ends with
   * an empty name. Another generation means that the list has changed (Xen: docs/misc/xenstore.txt, DIRECTORY_PART).
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
    throw new XenstoreProtocolError(`xenstore: the list of ${path} changes all the time`);
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
