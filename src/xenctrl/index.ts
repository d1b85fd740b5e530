/** Xen's libraries by FFI: hypercalls and foreign memory. Needs dom0. */
export { ABIS, type Abi, HVM_PARAM, SHUTDOWN } from './abi.ts';
export { XenCallError } from './errors.ts';
export { findLibraries, koffiVersion, type LibrariesFound, runningXen } from './libraries.ts';
export { type DomainInfo, type HypervisorVersion, type TscNumbers, XenControl } from './xen-control.ts';
