/** A client for xenstored. Works wherever its socket is. */
export { XenstoreAccess } from './access.ts';
export type { XenstoreOptions } from './client.ts';
export { XenstoreClient, xenstoreSocketPath } from './client.ts';
export * from './errors.ts';
export type { XenstoreWatch } from './watch.ts';
