/**
 * The part of Xen's binary interface that depends on headers, as data: one table for all supported releases.
 * test/unit/xenctrl/abi.test.ts compares each number with the C headers of its release, through fixtures/abi.
 */

/** Offsets in bytes within xc_domaininfo_t, which is struct xen_domctl_getdomaininfo (xen/domctl.h). */
export interface DomainInfoLayout {
  readonly size: number;
  readonly domain: number;
  readonly flags: number;
  readonly tot_pages: number;
  readonly shared_info_frame: number;
  readonly max_vcpu_id: number;
  readonly handle: number;
}

/** Size and field offsets of a C struct, in bytes. Names of nested fields have dots. */
export type StructLayout<Field extends string> = Readonly<Record<Field | 'size', number>>;

/** Structs of the calls for PV vCPUs, which libxenctrl does not wrap (xen/domctl.h, xen/memory.h). */
export interface PvCallLayouts {
  readonly xen_domctl: StructLayout<
    | 'cmd'
    | 'interface_version'
    | 'domain'
    | 'u.ext_vcpucontext.vcpu'
    | 'u.ext_vcpucontext.size'
    | 'u.vcpuextstate.vcpu'
    | 'u.vcpuextstate.xfeature_mask'
    | 'u.vcpuextstate.size'
    | 'u.vcpuextstate.buffer'
    | 'u.vcpu_msrs.vcpu'
    | 'u.vcpu_msrs.msr_count'
    | 'u.vcpu_msrs.msrs'
  >;
  readonly xen_domctl_vcpu_msr: StructLayout<never>;
  readonly xen_domctl_getvcpuinfo: StructLayout<'online'>;
  readonly xen_machphys_mfn_list: StructLayout<'max_extents' | 'extent_start' | 'nr_extents'>;
  /** See xen/sysctl.h. */
  readonly xen_sysctl_physinfo: StructLayout<
    'capabilities' | 'free_pages' | 'scrub_pages' | 'outstanding_pages'
  >;
}

/** Layouts that depend on the word width of a PV guest (xen/foreign/x86_64.h, xen/foreign/x86_32.h). */
export interface PvGuestLayout {
  /** Bytes in a word. */
  readonly width: 4 | 8;
  readonly ptLevels: 3 | 4;
  readonly shared_info: StructLayout<
    | 'arch.max_pfn'
    | 'arch.pfn_to_mfn_frame_list_list'
    | 'arch.p2m_cr3'
    | 'arch.p2m_vaddr'
    | 'arch.p2m_generation'
  >;
  readonly vcpu_guest_context: StructLayout<'user_regs.edx' | 'gdt_frames' | 'gdt_ents' | 'ctrlreg'>;
}

/**
 * How far it is proven that xlsnap works on a release: create, live and revert were run on real Xen; or only its headers
 * say what xlsnap expects, as the compiler found; or nobody knows.
 */
export type AbiProof = 'real-xen' | 'headers' | 'none';

/** The binary interface of one release of Xen. */
export interface Abi {
  /** `major.minor`, as in the sonames of libxenctrl and libxenguest. */
  readonly release: string;
  readonly proof: AbiProof;
  /**
   * XEN_DOMCTL_INTERFACE_VERSION (xen/domctl.h): Xen refuses raw domctls that carry another. Only PV guests need them.
   * Undefined for a release that is not in `ABIS`.
   */
  readonly domctlInterfaceVersion: number | undefined;
  readonly domainInfo: DomainInfoLayout;
  /** sizeof(xen_cpuid_leaf_t) and sizeof(xen_msr_entry_t) (xen/arch-x86/xen.h). */
  readonly cpuidLeafSize: number;
  readonly msrEntrySize: number;
  /** sizeof(xc_hypercall_buffer_t) (xenctrl.h), a multiple of 8. */
  readonly hypercallBufferSize: number;
  readonly pvCalls: PvCallLayouts;
}

const PV_CALLS: PvCallLayouts = {
  xen_domctl: {
    size: 144,
    cmd: 0,
    interface_version: 4,
    domain: 8,
    'u.ext_vcpucontext.vcpu': 16,
    'u.ext_vcpucontext.size': 20,
    'u.vcpuextstate.vcpu': 16,
    'u.vcpuextstate.xfeature_mask': 24,
    'u.vcpuextstate.size': 32,
    'u.vcpuextstate.buffer': 40,
    'u.vcpu_msrs.vcpu': 16,
    'u.vcpu_msrs.msr_count': 20,
    'u.vcpu_msrs.msrs': 24,
  },
  xen_domctl_vcpu_msr: { size: 16 },
  xen_domctl_getvcpuinfo: { size: 24, online: 4 },
  xen_machphys_mfn_list: { size: 24, max_extents: 0, extent_start: 8, nr_extents: 16 },
  xen_sysctl_physinfo: {
    size: 112,
    capabilities: 28,
    free_pages: 48,
    scrub_pages: 56,
    outstanding_pages: 64,
  },
};

/** The interface of PV guests, which never changes. */
export const PV_GUESTS: readonly PvGuestLayout[] = [
  {
    width: 8,
    ptLevels: 4,
    shared_info: {
      size: 3136,
      'arch.max_pfn': 3088,
      'arch.pfn_to_mfn_frame_list_list': 3096,
      'arch.p2m_cr3': 3112,
      'arch.p2m_vaddr': 3120,
      'arch.p2m_generation': 3128,
    },
    vcpu_guest_context: { size: 5168, 'user_regs.edx': 616, gdt_frames: 4832, gdt_ents: 4960, ctrlreg: 4984 },
  },
  {
    width: 4,
    ptLevels: 3,
    shared_info: {
      size: 2344,
      'arch.max_pfn': 2316,
      'arch.pfn_to_mfn_frame_list_list': 2320,
      'arch.p2m_cr3': 2328,
      'arch.p2m_vaddr': 2332,
      'arch.p2m_generation': 2336,
    },
    vcpu_guest_context: { size: 2800, 'user_regs.edx': 524, gdt_frames: 2640, gdt_ents: 2704, ctrlreg: 2716 },
  },
];

/** What is the same in all supported releases. */
const COMMON: Omit<Abi, 'release' | 'proof' | 'domctlInterfaceVersion'> = {
  domainInfo: {
    size: 112,
    domain: 0,
    flags: 4,
    tot_pages: 8,
    shared_info_frame: 48,
    max_vcpu_id: 68,
    handle: 76,
  },
  cpuidLeafSize: 24,
  msrEntrySize: 16,
  hypercallBufferSize: 40,
  pvCalls: PV_CALLS,
};

/** The supported releases, newest first. */
export const ABIS: readonly Abi[] = [
  { ...COMMON, release: '4.22', proof: 'real-xen', domctlInterfaceVersion: 0x18 },
  { ...COMMON, release: '4.21', proof: 'real-xen', domctlInterfaceVersion: 0x17 },
  { ...COMMON, release: '4.20', proof: 'real-xen', domctlInterfaceVersion: 0x17 },
  { ...COMMON, release: '4.19', proof: 'headers', domctlInterfaceVersion: 0x17 },
  { ...COMMON, release: '4.18', proof: 'headers', domctlInterfaceVersion: 0x16 },
  { ...COMMON, release: '4.17', proof: 'real-xen', domctlInterfaceVersion: 0x15 },
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

/** The bits of getpageframeinfo3's answer that hold the page type (xen/domctl.h). */
export const PFINFO = {
  XEN_DOMCTL_PFINFO_LTAB_SHIFT: 28,
  XEN_DOMCTL_PFINFO_XTAB: 0xf0000000,
} as const;

/** Operations of XEN_DOMCTL_shadow_op, and a mode of CLEAN (xen/domctl.h). */
export const SHADOW_OP = {
  XEN_DOMCTL_SHADOW_OP_OFF: 0,
  XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY: 2,
  XEN_DOMCTL_SHADOW_OP_CLEAN: 11,
  XEN_DOMCTL_SHADOW_OP_PEEK: 12,
  XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL: 1 << 0,
} as const;

/** Raw domctls that read parts of a PV vCPU's state (xen/domctl.h). */
export const DOMCTL = {
  XEN_DOMCTL_get_ext_vcpucontext: 43,
  XEN_DOMCTL_getvcpuextstate: 63,
  XEN_DOMCTL_get_vcpu_msrs: 72,
} as const;

/** Capabilities of a host (xen/sysctl.h). */
export const PHYSCAP = {
  XEN_SYSCTL_PHYSCAP_shadow: 1 << 4,
} as const;

/** A suboperation of memory_op (xen/memory.h). */
export const XENMEM = {
  XENMEM_machphys_compat_mfn_list: 25,
} as const;

/** Subcommands of xc_version (xen/version.h). */
export const XENVER = {
  XENVER_version: 0,
  XENVER_extraversion: 1,
} as const;

/** Length of a xen_extraversion_t in bytes (xen/version.h). */
export const EXTRAVERSION_SIZE = 16;

/** Log levels of libxentoollog (xentoollog.h). */
export const XTL = {
  XTL_CRITICAL: 9,
} as const;

/** Indices of HVM parameters (xen/hvm/params.h). */
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
