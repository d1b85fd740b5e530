/** A client for xenstored: nodes, watches, transactions. */
import { existsSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import type { Limits } from '../core/deadline.ts';
import { checkPath, XenstoreAccess } from './access.ts';
import { XenstoreConnection } from './connection.ts';
import { isXenstoreErrno, XenstoreClosedError, XenstoreError, XenstoreProtocolError } from './errors.ts';
import { XenstoreWatch } from './watch.ts';
import { joinStrings, MESSAGE, splitStrings } from './wire.ts';

/** How often to try a transaction while others keep changing the same nodes. */
const TRANSACTION_ATTEMPTS = 32;

export interface XenstoreOptions extends Limits {
  /** Path of the socket. Default: what `xenstoreSocketPath` returns. */
  readonly path?: string;
}

/** A connection to xenstored. `timeoutMs` and `signal` of `connect` apply to connecting only. */
export class XenstoreClient extends XenstoreAccess implements AsyncDisposable {
  readonly #connection: XenstoreConnection;

  private constructor(connection: XenstoreConnection) {
    super(connection, 0, {});
    this.#connection = connection;
  }

  /**
   * Connects to xenstored.
   * @throws {XenstoreConnectError} If it cannot be reached.
   * @throws {InterruptedError} If the signal aborted.
   */
  static async connect(options: XenstoreOptions = {}): Promise<XenstoreClient> {
    const path = options.path ?? xenstoreSocketPath(process.env);
    return new XenstoreClient(await XenstoreConnection.open(path, options));
  }

  /**
   * Watches a path, or one of xenstored's special paths (`@releaseDomain`, `@introduceDomain`). Dispose of
   * the watch to end it.
   */
  async watch(path: string, limits: Limits = {}): Promise<XenstoreWatch> {
    const token = this.#connection.nextToken();
    const payload = joinStrings(checkPath(path), token);
    const watch = new XenstoreWatch(path, async () => {
      this.#connection.removeWatch(token);
      try {
        await this.#connection.request(
          { type: MESSAGE.unwatch, operation: 'unwatch', subject: path, payload },
          {},
        );
      } catch (error) {
        // A watch ends with its connection.
        if (!(error instanceof XenstoreClosedError || error instanceof XenstoreProtocolError)) throw error;
      }
    });
    // The first event may come before the answer.
    this.#connection.addWatch(token, watch);
    try {
      await this.#connection.request(
        { type: MESSAGE.watch, operation: 'watch', subject: path, payload },
        limits,
      );
    } catch (error) {
      this.#connection.removeWatch(token);
      throw error;
    }
    return watch;
  }

  /**
   * Runs `work` in a transaction: all its writes take effect at once, or none does. If other changes got in
   * between, `work` runs again, so it must have no other effects. If it throws, the transaction is dropped
   * and the error is passed on.
   * @throws {XenstoreRequestError} EAGAIN if 32 attempts were in vain.
   */
  async transaction<T>(work: (access: XenstoreAccess) => Promise<T>, limits: Limits = {}): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#attempt(work, limits);
      } catch (error) {
        if (!isXenstoreErrno(error, 'EAGAIN') || attempt === TRANSACTION_ATTEMPTS) throw error;
      }
    }
  }

  /**
   * Makes xenstored announce the domain's next shutdown on `@releaseDomain` again. Needed after a suspended
   * domain was resumed.
   */
  async resumeDomain(domid: number, limits: Limits = {}): Promise<void> {
    await this.#connection.request(
      {
        type: MESSAGE.resume,
        operation: 'resume',
        subject: `domain ${domid}`,
        payload: joinStrings(String(domid)),
      },
      limits,
    );
  }

  async close(): Promise<void> {
    await this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #attempt<T>(work: (access: XenstoreAccess) => Promise<T>, limits: Limits): Promise<T> {
    const started = await this.#connection.request(
      {
        type: MESSAGE.transactionStart,
        operation: 'start',
        subject: 'transaction',
        payload: joinStrings(''),
      },
      limits,
    );
    const transactionId = Number(splitStrings(started)[0]);
    if (!Number.isInteger(transactionId) || transactionId <= 0 || transactionId > 0xffff_ffff) {
      throw new XenstoreProtocolError('xenstored gave a transaction an invalid id');
    }
    let result: T;
    try {
      result = await work(new XenstoreAccess(this.#connection, transactionId, limits));
    } catch (error) {
      // The first error counts. xenstored drops the transaction with the connection at the latest.
      await this.#endTransaction(transactionId, false, {}).catch((second: unknown) => {
        if (!(second instanceof XenstoreError)) throw second;
      });
      throw error;
    }
    await this.#endTransaction(transactionId, true, limits);
    return result;
  }

  async #endTransaction(transactionId: number, commit: boolean, limits: Limits): Promise<void> {
    await this.#connection.request(
      {
        type: MESSAGE.transactionEnd,
        operation: commit ? 'commit' : 'abort',
        subject: 'transaction',
        transactionId,
        payload: joinStrings(commit ? 'T' : 'F'),
      },
      limits,
    );
  }
}

/**
 * Returns where xenstored listens: $XENSTORED_PATH, $XENSTORED_RUNDIR/socket, or in Xen's default directories
 * (tools/libs/store/xs.c, xs_daemon_socket).
 */
export function xenstoreSocketPath(env: Readonly<Record<string, string | undefined>>): string {
  const { XENSTORED_PATH: path, XENSTORED_RUNDIR: directory } = env;
  if (path !== undefined && path !== '') return path;
  if (directory !== undefined && directory !== '') return joinPath(directory, 'socket');
  const places = ['/run/xenstored/socket', '/var/run/xenstored/socket'];
  return places.find((place) => existsSync(place)) ?? '/run/xenstored/socket';
}
