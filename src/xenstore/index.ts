/**
 * A client for xenstored. Works wherever its socket is.
 *
 * Unstable: may change in any release. docs/scripting.md and docs/library.md say what is promised.
 *
 * @example
 * ```ts
 * import { XenstoreClient } from 'xlsnap/xenstore';
 *
 * await using xenstore = await XenstoreClient.connect();
 * console.log(await xenstore.read('/local/domain/7/name'));
 * ```
 *
 * @module
 */
export type { Limits } from '../core/deadline.ts';
export { XenstoreAccess } from './access.ts';
export type { XenstoreOptions } from './client.ts';
export { XenstoreClient, xenstoreSocketPath } from './client.ts';
export type { WatchTarget, XenstoreConnection, XenstoreRequest } from './connection.ts';
export * from './errors.ts';
export type { XenstoreWatch } from './watch.ts';
