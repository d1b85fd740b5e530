/**
 * What of Xen's binary interface depends on headers, as data: one table for all tested releases. Each number is
 * compared with the C headers of its release through fixtures/abi (test/unit/xenctrl/abi.test.ts).
 */

/** Offsets in octets in xc_domaininfo_t, that is struct xen_domctl_getdomaininfo (xen/domctl.h). */
export interface DomainInfoLayout {
  readonly size: number;
  readonly domain: number;
  readonly flags: number;
  readonly tot_pages: number;
  readonly handle: number;
}

/** One release of Xen. */
export interface Abi {
  /** `major.minor`, as in the sonames of libxenctrl and libxenguest. */
  readonly release: string;
  /** XEN_DOMCTL_INTERFACE_VERSION (xen/domctl.h): Xen refuses raw domctls that carry another. */
  readonly domctlInterfaceVersion: number;
  readonly domainInfo: DomainInfoLayout;
  /** sizeof(xen_cpuid_leaf_t) and sizeof(xen_msr_entry_t) (xen/arch-x86/xen.h). */
  readonly cpuidLeafSize: number;
  readonly msrEntrySize: number;
  /** sizeof(xc_hypercall_buffer_t) (xenctrl.h), a multiple of 8. */
  readonly hypercallBufferSize: number;
}

/** The tested releases, newest first. */
export const ABIS: readonly Abi[] = [
  {
    release: '4.20',
    domctlInterfaceVersion: 0x17,
    domainInfo: { size: 112, domain: 0, flags: 4, tot_pages: 8, handle: 76 },
    cpuidLeafSize: 24,
    msrEntrySize: 16,
    hypercallBufferSize: 40,
  },
  {
    release: '4.17',
    domctlInterfaceVersion: 0x15,
    domainInfo: { size: 112, domain: 0, flags: 4, tot_pages: 8, handle: 76 },
    cpuidLeafSize: 24,
    msrEntrySize: 16,
    hypercallBufferSize: 40,
  },
];

/** Flags of struct xen_domctl_getdomaininfo (xen/domctl.h). */
export const DOMINF = {
  XEN_DOMINF_dying: 1 << 0,
  XEN_DOMINF_hvm_guest: 1 << 1,
  XEN_DOMINF_shutdown: 1 << 2,
  XEN_DOMINF_paused: 1 << 3,
  XEN_DOMINF_shutdownmask: 255,
  XEN_DOMINF_shutdownshift: 16,
} as const;

/** Reasons of a shutdown (xen/sched.h). */
export const SHUTDOWN = {
  SHUTDOWN_poweroff: 0,
  SHUTDOWN_reboot: 1,
  SHUTDOWN_suspend: 2,
  SHUTDOWN_crash: 3,
  SHUTDOWN_watchdog: 4,
  SHUTDOWN_soft_reset: 5,
} as const;

/** Page types are in these bits of what getpageframeinfo3 answers (xen/domctl.h). */
export const PFINFO = {
  XEN_DOMCTL_PFINFO_LTAB_SHIFT: 28,
  XEN_DOMCTL_PFINFO_XTAB: 0xf0000000,
} as const;

/** Operations of XEN_DOMCTL_shadow_op, and a mode of CLEAN (xen/domctl.h). */
export const SHADOW_OP = {
  XEN_DOMCTL_SHADOW_OP_OFF: 0,
  XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY: 2,
  XEN_DOMCTL_SHADOW_OP_CLEAN: 11,
  XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL: 1 << 0,
} as const;

/** Subcommands of xc_version (xen/version.h). */
export const XENVER = {
  XENVER_version: 0,
  XENVER_extraversion: 1,
} as const;

/** Length in octets of a xen_extraversion_t (xen/version.h). */
export const EXTRAVERSION_SIZE = 16;

/** Levels of libxentoollog (xentoollog.h). */
export const XTL = {
  XTL_CRITICAL: 9,
} as const;

/** Indices of HVM params (xen/hvm/params.h). */
export const HVM_PARAM = {
  HVM_PARAM_CALLBACK_IRQ: 0,
  HVM_PARAM_STORE_PFN: 1,
  HVM_PARAM_IOREQ_PFN: 5,
  HVM_PARAM_BUFIOREQ_PFN: 6,
  HVM_PARAM_VIRIDIAN: 9,
  HVM_PARAM_IDENT_PT: 12,
  HVM_PARAM_ACPI_S_STATE: 14,
  HVM_PARAM_CONSOLE_PFN: 17,
  HVM_PARAM_ACPI_IOPORTS_LOCATION: 19,
  HVM_PARAM_PAGING_RING_PFN: 27,
  HVM_PARAM_MONITOR_RING_PFN: 28,
  HVM_PARAM_SHARING_RING_PFN: 29,
  HVM_PARAM_IOREQ_SERVER_PFN: 32,
  HVM_PARAM_NR_IOREQ_SERVER_PAGES: 33,
  HVM_PARAM_VM_GENERATION_ID_ADDR: 34,
  HVM_PARAM_X87_FIP_WIDTH: 36,
  HVM_PARAM_VM86_TSS_SIZED: 37,
  HVM_PARAM_MCA_CAP: 38,
} as const;
