/**
 * A client for xenstored, by its socket; works wherever that is.
 *
 * Unstable: may change in any release. What is promised is in docs/scripting.md and docs/library.md.
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
