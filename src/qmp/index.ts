/**
 * A client for QMP, QEMU's protocol, and the commands that snapshots need. Needs no Xen.
 *
 * Unstable: may change in any release. docs/scripting.md and docs/library.md say what is promised.
 *
 * @example
 * ```ts
 * import { QmpClient, queryBlock } from 'xlsnap/qmp';
 *
 * await using qmp = await QmpClient.connect('/run/qemu.sock');
 * console.log(await queryBlock(qmp));
 * ```
 *
 * @module
 */

export type { Limits } from '../core/deadline.ts';
export type { QmpArguments, QmpState } from './client.ts';
export { COMMAND_TIMEOUT_MS, CONNECT_TIMEOUT_MS, QmpClient, qmpSocketPaths } from './client.ts';
export * from './commands.ts';
export * from './errors.ts';
export type { QmpListener } from './listener.ts';
export type { QemuVersion, QmpEvent } from './messages.ts';
