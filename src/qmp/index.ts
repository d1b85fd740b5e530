/** A QMP client, and the commands that snapshots need. Works without Xen. */

export type { QmpArguments, QmpState } from './client.ts';
export { COMMAND_TIMEOUT_MS, CONNECT_TIMEOUT_MS, QmpClient, qmpSocketPaths } from './client.ts';
export * from './commands.ts';
export * from './errors.ts';
export type { QmpListener } from './listener.ts';
export type { QemuVersion, QmpEvent } from './messages.ts';
