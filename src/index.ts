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
 * // A stream has no cfgfile.
 * if (plan.configPath !== undefined) {
 *   await revertSnapshot(host, { domain: 'guest1', config: await readConfigFile(plan.configPath) });
 * }
 * ```
 *
 * @module
 */
export type { DiskRequest, SnapshotConfig, StoreSize } from './config/config.ts';
export { Bitmap } from './core/bitmap.ts';
export { type Brand, type Domid, toDomid } from './core/brand.ts';
export type { CallOptions } from './core/call-options.ts';
export {
  DiskError,
  DomainError,
  describeError,
  EnvironmentError,
  type ErrorDetails,
  EXIT,
  type ExitCode,
  errnoCode,
  InterruptedError,
  OutputError,
  PartialError,
  PreflightError,
  RecoverError,
  RestoreError,
  RiskError,
  SuspendError,
  throwIfAborted,
  UsageError,
  XlsnapError,
} from './core/errors.ts';
export type { Extent, Extents } from './core/extents.ts';
export type { Problem } from './core/problem.ts';
export { type ObservedWork, observe, type ProgressEvent } from './core/progress-events.ts';
export { type LogLevel, type Progress, type Reporter, silentReporter } from './core/reporter.ts';
export type { GuestType, XenVersion } from './core/xen.ts';
export type { Checksums } from './memfile/checksums.ts';
export type { ChangeCounts, CompareOptions, Comparison, RegionChange } from './memfile/compare.ts';
export type { ConfigChange } from './memfile/config-changes.ts';
export type { Inspection, InspectOptions, MemoryMap, XlHeaderFacts } from './memfile/inspect.ts';
export {
  type ConfigDisk,
  type DiskImage,
  type DomainSummary,
  type LibxlConfig,
  LibxlConfigError,
  parseLibxlConfig,
} from './memfile/libxl-config.ts';
export { printLibxlJson } from './memfile/libxl-json.ts';
export {
  type DiskIdentity,
  type FileIdentity,
  type Manifest,
  type PhaseTiming,
  type QemuDisk,
  readManifest,
  type SnapshotDisk,
  type StorageDisk,
  type TagIdentity,
  type UnknownDrive,
} from './memfile/manifest.ts';
export type { ChecksumAlgorithm, MakeXxh3, Xxh3 } from './memfile/summer.ts';
export { MemoryFileError, type MemoryReport } from './memfile/verify.ts';
export type {
  CopyRound,
  CreateRequest,
  CreateResult,
  FullCopy,
  MemorySink,
  PrecopyLimits,
  RecoverRequest,
  RecoverResult,
  RevertDisk,
  RevertPlan,
  RevertRequest,
  RevertResult,
  SnapshotPlan,
  TrackedCopy,
  TrackOffResult,
  Tuning,
} from './snapshot/api.ts';
export { createSnapshot, planCreate } from './snapshot/create/create.ts';
export { type DiskExamination, type DomainExamination, examineDomain } from './snapshot/create/examine.ts';
export { deleteSnapshots, planDelete } from './snapshot/delete/delete.ts';
export type {
  DeleteDisk,
  DeletePlan,
  DeleteRequest,
  DeleteResult,
  PlannedDelete,
  RefusedDelete,
} from './snapshot/delete/types.ts';
export {
  type DamagedSnapshot,
  type ListedSnapshot,
  type ListRequest,
  listSnapshots,
  type SnapshotList,
} from './snapshot/list/list.ts';
export { findSnapshotConfig, type NamedRequest } from './snapshot/list/named.ts';
export type {
  CreateFindings,
  DeviceModel,
  DiskAction,
  DomainDisk,
  DomainState,
  DomainVitals,
  Guardian,
  Guest,
  Host,
  Hypervisor,
  ImageHost,
  ImageInfo,
  Images,
  ImageTag,
  ImageUse,
  LogMarks,
  MergeOptions,
  OnProgress,
  OverlayMerge,
  PackedPages,
  PackOptions,
  RestoreFacts,
  RestoreFindings,
  RestoreOptions,
  Toolstack,
} from './snapshot/ports.ts';
export { recoverAll, recoverSnapshot } from './snapshot/recover.ts';
export { planRevert, revertSnapshot } from './snapshot/revert/revert.ts';
export { RISKS, type Risk, type RiskName } from './snapshot/risks.ts';
export type { Look } from './snapshot/storage/look.ts';
export type {
  DiskPlace,
  DiskStorage,
  PlannedSnapshot,
  PreparedSnapshot,
  PrepareSteps,
  RevertSteps,
  WantedSnapshot,
} from './snapshot/storage/port.ts';
export type { MemoryClones } from './snapshot/track/clones.ts';
export { stopTracking } from './snapshot/track/off.ts';
export { type DoctorReport, type DomainReport, runDoctor } from './toolstack/doctor/doctor.ts';
export { checkHost, type HostCheck, type HostCheckOptions } from './toolstack/doctor/host-checks.ts';
export { type HostOptions, openHost } from './toolstack/host.ts';
export { imageHost } from './toolstack/image-host.ts';
export { LibxlToolstack } from './toolstack/libxl/toolstack.ts';
export { compareMemoryFiles, inspectMemoryFile, verifyMemoryFile } from './toolstack/memory-file.ts';
export { XlToolstack } from './toolstack/xl/toolstack.ts';
