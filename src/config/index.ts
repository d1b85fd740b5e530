/**
 * Reads and prints the cfgfile of `snapshot-create` and `snapshot-revert`. Works on any machine.
 *
 * @example
 * ```ts
 * import { readConfigFile } from 'xlsnap/config';
 *
 * const config = await readConfigFile('/srv/snapshots/guest1.save.cfg');
 * ```
 *
 * @module
 */
export type { Problem } from '../core/problem.ts';
export type { DiskRequest, SnapshotConfig, StoreSize } from './config.ts';
export { ConfigError, type ConfigFinding } from './errors.ts';
export { checkSnapshotName, MAX_NAME_BYTES } from './name.ts';
export { MAX_CONFIG_BYTES, parseConfig } from './parse.ts';
export { printConfig } from './print.ts';
export { readConfigFile } from './read.ts';
