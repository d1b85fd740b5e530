/**
 * Calls Xen's libraries by FFI: hypercalls and foreign memory. Needs dom0.
 *
 * Unstable: may change in any release. docs/scripting.md and docs/library.md say what is promised.
 *
 * @example
 * ```ts
 * import { toDomid, XenControl } from 'xlsnap/xenctrl';
 *
 * await using xen = await XenControl.open();
 * console.log(xen.version, await xen.domainInfo(toDomid(0)));
 * ```
 *
 * @module
 */
export { type Domid, toDomid } from '../core/brand.ts';
export {
  ABIS,
  type Abi,
  type AbiProof,
  type DomainInfoLayout,
  HVM_PARAM,
  type PvCallLayouts,
  type PvGuestLayout,
  SHUTDOWN,
  type StructLayout,
} from './abi.ts';
export { XenCallError } from './errors.ts';
export type { HeadMaker, PackedPages, PackOptions, PageRewriter } from './foreign-memory.ts';
export { findLibraries, koffiVersion, type LibrariesFound } from './libraries.ts';
export { NO_FRAME } from './pv/frame-table.ts';
export type { BadEntry } from './pv/page-table.ts';
export type { PvVcpu } from './pv/pv-calls.ts';
export type { PvDomain, PvDomainFacts } from './pv/pv-domain.ts';
export { knownAbi, libraryHint, releaseOf, runningXen, supportedReleases } from './release.ts';
export { selfTestFailed } from './self-test.ts';
export {
  type DomainInfo,
  type OpenXenOptions,
  type PodCounts,
  type TscNumbers,
  XenControl,
} from './xen-control.ts';
