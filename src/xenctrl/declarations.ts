/**
 * The C functions that are called, as their headers declare them. test/unit/xenctrl/abi.test.ts makes the C
 * compiler compare each prototype with the headers of every supported release.
 *
 * Unless noted: `int` is 0 or more on success, and -1 on failure with errno set by the hypercall (EPERM: not
 * privileged, ESRCH: no such domain, EINVAL: not in this state). Nothing is allocated for the caller. Any
 * thread may call: libxenctrl is reentrant unless opened with XC_OPENFLAG_NON_REENTRANT, and a handle can be
 * used in all threads.
 */

/** A prototype: C types of the result and the parameters. */
export interface Declaration {
  readonly name: string;
  readonly result: string;
  readonly parameters: readonly string[];
}

/** A library and the functions that are called in it. */
export interface LibraryDeclaration<Name extends string> {
  /** `%` stands for the release. */
  readonly soname: string;
  readonly headers: readonly string[];
  readonly functions: Readonly<Record<Name, Omit<Declaration, 'name'>>>;
}

function declare<Name extends string>(declaration: LibraryDeclaration<Name>): LibraryDeclaration<Name> {
  return declaration;
}

/** libxentoollog, which is used only to keep libxenctrl from writing to stderr. */
export const TOOLLOG = declare({
  soname: 'libxentoollog.so.1',
  headers: ['stdio.h', 'xentoollog.h'],
  functions: {
    // NULL if out of memory. Freed by xtl_logger_destroy; the FILE remains the caller's.
    xtl_createlogger_stdiostream: {
      result: 'xentoollog_logger_stdiostream *',
      parameters: ['FILE *', 'xentoollog_level', 'unsigned'],
    },
    xtl_logger_destroy: { result: 'void', parameters: ['struct xentoollog_logger *'] },
  },
});

export const XENCTRL = declare({
  soname: 'libxenctrl.so.%',
  headers: ['xenctrl.h'],
  functions: {
    // NULL on failure: EACCES, ENOENT (no /dev/xen/privcmd: not a Xen dom0). Freed by xc_interface_close.
    xc_interface_open: {
      result: 'xc_interface *',
      parameters: ['xentoollog_logger *', 'xentoollog_logger *', 'unsigned'],
    },
    xc_interface_close: { result: 'int', parameters: ['xc_interface *'] },
    // The handle belongs to the interface.
    xc_interface_fmem_handle: {
      result: 'struct xenforeignmemory_handle *',
      parameters: ['xc_interface *'],
    },
    // XENVER_version: major << 16 | minor; XENVER_extraversion: fills 16 bytes.
    xc_version: { result: 'int', parameters: ['xc_interface *', 'int', 'void *'] },
    // Returns the number of domains written, from the first domid on.
    xc_domain_getinfolist: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'unsigned int', 'xc_domaininfo_t *'],
    },
    // Pauses are counted: each needs its unpause.
    xc_domain_pause: { result: 'int', parameters: ['xc_interface *', 'uint32_t'] },
    xc_domain_unpause: { result: 'int', parameters: ['xc_interface *', 'uint32_t'] },
    xc_domain_shutdown: { result: 'int', parameters: ['xc_interface *', 'uint32_t', 'int'] },
    // Fills in the bytes of a guest's word: 4 or 8.
    xc_domain_get_guest_width: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'unsigned int *'],
    },
    // EINVAL: there is no such vCPU, or it was never set up.
    xc_vcpu_getinfo: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint32_t', 'xc_vcpuinfo_t *'],
    },
    xc_vcpu_getcontext: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint32_t', 'vcpu_guest_context_any_t *'],
    },
    // The struct is copied in and out; buffers that it points to must be hypercall buffers.
    xc_domctl: { result: 'int', parameters: ['xc_interface *', 'struct xen_domctl *'] },
    xc_physinfo: { result: 'int', parameters: ['xc_interface *', 'xc_physinfo_t *'] },
    // The highest mfn of the host.
    xc_maximum_ram_page: { result: 'int', parameters: ['xc_interface *', 'unsigned long *'] },
    xc_domain_nr_gpfns: { result: 'int', parameters: ['xc_interface *', 'uint32_t', 'xen_pfn_t *'] },
    // Fills in the pages that the domain has, those of them reserved for pages to come, and the pages that
    // the domain believes to have but does not have yet. EINVAL: a PV guest.
    xc_domain_get_pod_target: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint64_t *', 'uint64_t *', 'uint64_t *'],
    },
    xc_domain_get_tsc_info: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint32_t *', 'uint64_t *', 'uint32_t *', 'uint32_t *'],
    },
    // Returns the bytes written; with a NULL buffer, the maximum.
    xc_domain_hvm_getcontext: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint8_t *', 'uint32_t'],
    },
    // The operations OFF and ENABLE_LOGDIRTY take neither mb nor mode. EINVAL: already on.
    xc_shadow_control: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'unsigned int', 'unsigned int *', 'unsigned int'],
    },
    // Returns the number of gfns written to the bitmap, or -1. The stats may be NULL.
    xc_logdirty_control: {
      result: 'long long',
      parameters: [
        'xc_interface *',
        'uint32_t',
        'unsigned int',
        'xc_hypercall_buffer_t *',
        'unsigned long',
        'unsigned int',
        'xc_shadow_op_stats_t *',
      ],
    },
    // Fills the buffer's struct, which must be zero before, and returns the memory's address; NULL if out of
    // memory.
    xc__hypercall_buffer_alloc_pages: {
      result: 'void *',
      parameters: ['xc_interface *', 'xc_hypercall_buffer_t *', 'int'],
    },
    xc__hypercall_buffer_free_pages: {
      result: 'void',
      parameters: ['xc_interface *', 'xc_hypercall_buffer_t *', 'int'],
    },
    xc_hvm_param_get: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint32_t', 'uint64_t *'],
    },
  },
});

/**
 * Exported by libxenctrl for libxenguest, and declared in no installed header (tools/libs/ctrl/xc_private.h).
 */
export const XENCTRL_PRIVATE = declare({
  soname: 'libxenctrl.so.%',
  headers: [],
  functions: {
    // gfns in, types in bits 28-31 out. E2BIG: more than 1024.
    xc_get_pfn_type_batch: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'unsigned int', 'xen_pfn_t *'],
    },
    // Sets the bits of gfns in the dirty log of an HVM or PVH domain (xenctrl_compat.h; XEN_DMOP_modified_memory). Does nothing
    // while the log is off, and for gfns that have no page.
    xc_hvm_modified_memory: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint64_t', 'uint64_t'],
    },
    // The struct is copied in and out; buffers that it points to must be hypercall buffers.
    xc_memory_op: {
      result: 'long long',
      parameters: ['xc_interface *', 'unsigned int', 'void *', 'size_t'],
    },
  },
});

export const XENGUEST = declare({
  soname: 'libxenguest.so.%',
  headers: ['xenguest.h'],
  functions: {
    // EINVAL: the domain is not suspended.
    xc_domain_resume: { result: 'int', parameters: ['xc_interface *', 'uint32_t', 'int'] },
    // Maps Xen's m2p up to the mfn, in whole 2 MiB. NULL with errno on failure. Undone by
    // xenforeignmemory_unmap. The mfn0 may be NULL.
    xc_map_m2p: {
      result: 'xen_pfn_t *',
      parameters: ['xc_interface *', 'unsigned long', 'int', 'unsigned long *'],
    },
    // NULL if out of memory. Freed by xc_cpu_policy_destroy.
    xc_cpu_policy_init: { result: 'xc_cpu_policy_t *', parameters: [] },
    xc_cpu_policy_destroy: { result: 'void', parameters: ['xc_cpu_policy_t *'] },
    // Fills in the maximum number of leaves and MSRs of any policy on this host.
    xc_cpu_policy_get_size: { result: 'int', parameters: ['xc_interface *', 'uint32_t *', 'uint32_t *'] },
    xc_cpu_policy_get_domain: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'xc_cpu_policy_t *'],
    },
    // Counts in: space; counts out: entries written. ENOBUFS: too little space.
    xc_cpu_policy_serialise: {
      result: 'int',
      parameters: [
        'xc_interface *',
        'const xc_cpu_policy_t *',
        'xen_cpuid_leaf_t *',
        'uint32_t *',
        'xen_msr_entry_t *',
        'uint32_t *',
      ],
    },
  },
});

export const FOREIGNMEMORY = declare({
  soname: 'libxenforeignmemory.so.1',
  headers: ['xenforeignmemory.h'],
  functions: {
    // With an err array, never NULL for failures of single pages: err[i] is 0 or a negated errno, and
    // touching a page whose err is set raises SIGBUS. NULL with errno for all other failures. Undone by
    // xenforeignmemory_unmap.
    xenforeignmemory_map: {
      result: 'void *',
      parameters: ['xenforeignmemory_handle *', 'uint32_t', 'int', 'size_t', 'const xen_pfn_t *', 'int *'],
    },
    // Using any pointer or view into the mapping afterwards kills the process.
    xenforeignmemory_unmap: {
      result: 'int',
      parameters: ['xenforeignmemory_handle *', 'void *', 'size_t'],
    },
  },
});

/** The C library of the process itself. */
export const LIBC = declare({
  soname: '',
  headers: ['stdio.h', 'string.h', 'sys/file.h', 'sys/ioctl.h', 'unistd.h'],
  functions: {
    // NULL with errno. Freed by fclose.
    fopen: { result: 'FILE *', parameters: ['const char *', 'const char *'] },
    fclose: { result: 'int', parameters: ['FILE *'] },
    // Returns 0, or -1: EWOULDBLOCK if another process holds the lock and LOCK_NB was given.
    flock: { result: 'int', parameters: ['int', 'int'] },
    // Returns 0, or -1 with errno: ENOTTY, EOPNOTSUPP if the file system has no such call.
    ioctl: { result: 'int', parameters: ['int', 'unsigned long', '...'] },
    // Returns 0 if they are equal.
    memcmp: { result: 'int', parameters: ['const void *', 'const void *', 'size_t'] },
    memcpy: { result: 'void *', parameters: ['void *', 'const void *', 'size_t'] },
    // Returns the offset, or -1. SEEK_DATA and SEEK_HOLE: ENXIO at or after the end of the file.
    lseek: { result: 'off_t', parameters: ['int', 'off_t', 'int'] },
  },
});

/** libxxhash, which is optional: without it, what was written is read again for its checksums. */
export const XXHASH = declare({
  soname: 'libxxhash.so.0',
  // Not checked: libxxhash-dev need not be installed.
  headers: [],
  functions: {
    XXH3_64bits: { result: 'uint64_t', parameters: ['const void *', 'size_t'] },
    // NULL if out of memory. Freed by XXH3_freeState.
    XXH3_createState: { result: 'XXH3_state_t *', parameters: [] },
    XXH3_freeState: { result: 'int', parameters: ['XXH3_state_t *'] },
    // Begins a sum with seed 0.
    XXH3_64bits_reset: { result: 'int', parameters: ['XXH3_state_t *'] },
    XXH3_64bits_update: { result: 'int', parameters: ['XXH3_state_t *', 'const void *', 'size_t'] },
    XXH3_64bits_digest: { result: 'uint64_t', parameters: ['const XXH3_state_t *'] },
  },
});
