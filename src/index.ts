/**
 * Snapshots of running Xen domains, from dom0.
 *
 * @example
 * ```ts
 * import { createSnapshot, openHost } from 'xlsnap';
 *
 * await using host = await openHost();
 * const result = await createSnapshot(host, { domain: 'guest1', name: 'before-upgrade' });
 * ```
 */
export type { DiskRequest, SnapshotConfig } from './config/config.ts';
export * from './core/errors.ts';
export { type LogLevel, type Progress, type Reporter, silentReporter } from './core/reporter.ts';
export { createSnapshot, planCreate } from './snapshot/create.ts';
export type * from './snapshot/ports.ts';
export { planRevert, revertSnapshot } from './snapshot/revert.ts';
export type * from './snapshot/types.ts';
export { openHost } from './toolstack/host.ts';
