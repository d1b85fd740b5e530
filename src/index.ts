/**
 * Snapshots of running Xen domains, from dom0. The guide is docs/library.md.
 *
 * @example
 * ```ts
 * import { createSnapshot, openHost, revertSnapshot } from 'xlsnap';
 * import { readConfigFile } from 'xlsnap/config';
 *
 * await using host = await openHost();
 * const { plan } = await createSnapshot(host, { domain: 'guest1', name: 'before-upgrade' });
 * await revertSnapshot(host, { domain: 'guest1', config: await readConfigFile(plan.configPath) });
 * ```
 *
 * @module
 */
export type { DiskRequest, SnapshotConfig } from './config/config.ts';
export { Bitmap } from './core/bitmap.ts';
export { type Brand, type Domid, toDomid } from './core/brand.ts';
export * from './core/errors.ts';
export type { Extent, Extents } from './core/extents.ts';
export { type ObservedWork, observe, type ProgressEvent } from './core/progress-events.ts';
export { type LogLevel, type Progress, type Reporter, silentReporter } from './core/reporter.ts';
export type { Checksums } from './snapshot/checksums.ts';
export type { ChangeCounts, CompareOptions, Comparison, RegionChange } from './snapshot/compare.ts';
export type { ConfigChange } from './snapshot/config-changes.ts';
export { createSnapshot, planCreate } from './snapshot/create.ts';
export type { DiskIdentity, FileIdentity, TagIdentity } from './snapshot/disk-identity.ts';
export { type DiskExamination, type DomainExamination, examineDomain } from './snapshot/examine.ts';
export type { Inspection, InspectOptions, MemoryMap, XlHeaderFacts } from './snapshot/inspect.ts';
export {
  type ConfigDisk,
  type DomainSummary,
  LibxlConfigError,
  parseLibxlConfig,
} from './snapshot/libxl-config.ts';
export { printLibxlJson } from './snapshot/libxl-json.ts';
export { type Manifest, readManifest } from './snapshot/manifest.ts';
export { MemoryFileError, type MemoryReport, verifyMemoryFile } from './snapshot/memory-facts.ts';
export type * from './snapshot/ports.ts';
export { recoverAll, recoverSnapshot } from './snapshot/recover.ts';
export { planRevert, revertSnapshot } from './snapshot/revert.ts';
export { RISKS } from './snapshot/risks.ts';
export type * from './snapshot/types.ts';
export { type DoctorReport, type DomainReport, runDoctor } from './toolstack/doctor.ts';
export { type HostOptions, openHost, XlToolstack } from './toolstack/host.ts';
export { checkHost, type HostCheck } from './toolstack/host-checks.ts';
export { LibxlToolstack } from './toolstack/libxl-toolstack.ts';
export { compareMemoryFiles, inspectMemoryFile } from './toolstack/memory-file.ts';
