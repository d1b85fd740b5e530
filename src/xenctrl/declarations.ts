/**
 * The C functions that are called, in the words of their headers. test/unit/xenctrl/abi.test.ts lets the C compiler
 * compare each prototype with the headers of every tested release.
 *
 * Unless noted: `int` is 0 or more on success and -1 on failure with errno set by the hypercall (EPERM: not
 * privileged, ESRCH: no such domain, EINVAL: not in this state); nothing is allocated for the caller; any thread may
 * call (libxenctrl is reentrant unless opened with XC_OPENFLAG_NON_REENTRANT), and a handle stays usable in all.
 */

/** A prototype: result and parameters, C types. */
export interface Declaration {
  readonly name: string;
  readonly result: string;
  readonly parameters: readonly string[];
}

/** A library and what is called in it. */
export interface LibraryDeclaration<Name extends string> {
  /** `%` stands for the release. */
  readonly soname: string;
  readonly headers: readonly string[];
  readonly functions: Readonly<Record<Name, Omit<Declaration, 'name'>>>;
}

function declare<Name extends string>(declaration: LibraryDeclaration<Name>): LibraryDeclaration<Name> {
  return declaration;
}

/** libxentoollog: only to keep libxenctrl from writing to stderr. */
export const TOOLLOG = declare({
  soname: 'libxentoollog.so.1',
  headers: ['stdio.h', 'xentoollog.h'],
  functions: {
    // NULL without memory. Freed by xtl_logger_destroy; the FILE stays the caller's.
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
    // Number of domains written, from the first domid on.
    xc_domain_getinfolist: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'unsigned int', 'xc_domaininfo_t *'],
    },
    // Counted: each pause needs its unpause.
    xc_domain_pause: { result: 'int', parameters: ['xc_interface *', 'uint32_t'] },
    xc_domain_unpause: { result: 'int', parameters: ['xc_interface *', 'uint32_t'] },
    xc_domain_shutdown: { result: 'int', parameters: ['xc_interface *', 'uint32_t', 'int'] },
    // Bytes of a guest's word: 4 or 8.
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
    // The struct is copied to and fro; buffers it points to must be hypercall buffers.
    xc_domctl: { result: 'int', parameters: ['xc_interface *', 'struct xen_domctl *'] },
    xc_physinfo: { result: 'int', parameters: ['xc_interface *', 'xc_physinfo_t *'] },
    // The highest mfn of the host.
    xc_maximum_ram_page: { result: 'int', parameters: ['xc_interface *', 'unsigned long *'] },
    xc_domain_nr_gpfns: { result: 'int', parameters: ['xc_interface *', 'uint32_t', 'xen_pfn_t *'] },
    // Pages that the domain has, those of them that are set apart for pages to come, and pages that it believes to have and that
    // are still to come. EINVAL: a PV guest.
    xc_domain_get_pod_target: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint64_t *', 'uint64_t *', 'uint64_t *'],
    },
    xc_domain_get_tsc_info: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint32_t *', 'uint64_t *', 'uint32_t *', 'uint32_t *'],
    },
    // Bytes written; with a NULL buffer, the most there can be.
    xc_domain_hvm_getcontext: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'uint8_t *', 'uint32_t'],
    },
    // Operations OFF and ENABLE_LOGDIRTY take neither mb nor mode. EINVAL: it is on already.
    xc_shadow_control: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'unsigned int', 'unsigned int *', 'unsigned int'],
    },
    // Number of gfns that the bitmap has got, or -1. The stats may be NULL.
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
    // Fills the buffer's struct, all zeros before, and gives the memory's address; NULL without memory.
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

/** Exported by libxenctrl for libxenguest and declared in no installed header (tools/libs/ctrl/xc_private.h). */
export const XENCTRL_PRIVATE = declare({
  soname: 'libxenctrl.so.%',
  headers: [],
  functions: {
    // gfns in, types in bits 28-31 out; E2BIG above 1024 of them.
    xc_get_pfn_type_batch: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'unsigned int', 'xen_pfn_t *'],
    },
    // The struct is copied to and fro; buffers it points to must be hypercall buffers.
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
    // Maps the m2p of Xen up to the mfn, in whole 2 MiB; NULL with errno. Undone by xenforeignmemory_unmap. The mfn0 may
    // be NULL.
    xc_map_m2p: {
      result: 'xen_pfn_t *',
      parameters: ['xc_interface *', 'unsigned long', 'int', 'unsigned long *'],
    },
    // NULL without memory. Freed by xc_cpu_policy_destroy.
    xc_cpu_policy_init: { result: 'xc_cpu_policy_t *', parameters: [] },
    xc_cpu_policy_destroy: { result: 'void', parameters: ['xc_cpu_policy_t *'] },
    // Most leaves and MSRs that any policy has on this host.
    xc_cpu_policy_get_size: { result: 'int', parameters: ['xc_interface *', 'uint32_t *', 'uint32_t *'] },
    xc_cpu_policy_get_domain: {
      result: 'int',
      parameters: ['xc_interface *', 'uint32_t', 'xc_cpu_policy_t *'],
    },
    // Counts in: room; out: entries written. ENOBUFS when the room is too small.
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
    // With an err array never NULL for single pages' failures: err[i] is 0 or a negated errno, and touching a page
    // whose err is set is SIGBUS. NULL with errno for all others. Undone by xenforeignmemory_unmap.
    xenforeignmemory_map: {
      result: 'void *',
      parameters: ['xenforeignmemory_handle *', 'uint32_t', 'int', 'size_t', 'const xen_pfn_t *', 'int *'],
    },
    // Any pointer or view into the mapping is deadly afterwards.
    xenforeignmemory_unmap: {
      result: 'int',
      parameters: ['xenforeignmemory_handle *', 'void *', 'size_t'],
    },
  },
});

/** The C library of the process itself. */
export const LIBC = declare({
  soname: '',
  headers: ['stdio.h', 'string.h', 'sys/uio.h'],
  functions: {
    // NULL with errno. Freed by fclose.
    fopen: { result: 'FILE *', parameters: ['const char *', 'const char *'] },
    fclose: { result: 'int', parameters: ['FILE *'] },
    // 0 when they are the same.
    memcmp: { result: 'int', parameters: ['const void *', 'const void *', 'size_t'] },
    memcpy: { result: 'void *', parameters: ['void *', 'const void *', 'size_t'] },
    // Bytes written, or -1: ENOSPC, EIO, EINTR, …; at most IOV_MAX pieces.
    pwritev: { result: 'ssize_t', parameters: ['int', 'const struct iovec *', 'int', 'off_t'] },
    // The offset, or -1: with SEEK_DATA and SEEK_HOLE ENXIO at or behind the end of the file.
    lseek: { result: 'off_t', parameters: ['int', 'off_t', 'int'] },
  },
});
