/** Hypercalls on domains, by libxenctrl. */
import { allOnes } from '../core/bitmap.ts';
import { type Domid, PAGE_SIZE, toDomid, toSafeNumber } from '../core/brand.ts';
import { DomainError, EnvironmentError } from '../core/errors.ts';
import type { XenVersion } from '../core/xen.ts';
import {
  ABIS,
  type Abi,
  type AbiProof,
  DOMINF,
  EXTRAVERSION_SIZE,
  PFINFO,
  PHYSCAP,
  type PvCallLayouts,
  SHADOW_OP,
  XENVER,
  XTL,
} from './abi.ts';
import { FOREIGNMEMORY, LIBC, TOOLLOG, XENCTRL, XENCTRL_PRIVATE, XENGUEST, XXHASH } from './declarations.ts';
import { type CleanedLog, takeBitmap } from './dirty-bitmap.ts';
import { errnoName, XenCallError } from './errors.ts';
import {
  ForeignMemory,
  type HeadMaker,
  type PackedPages,
  type PackOptions,
  type PageRewriter,
} from './foreign-memory.ts';
import { pagingIsOn } from './hvm-context.ts';
import { withHypercallBuffer } from './hypercall-buffer.ts';
import {
  bind,
  bindIfInstalled,
  loadKoffi,
  type NativeArgument,
  type NativeFunction,
  type NativeResult,
} from './native.ts';
import { PvCalls } from './pv/pv-calls.ts';
import { PvDomain } from './pv/pv-domain.ts';
import { TableMaps } from './pv/table-maps.ts';
import { abiFor, knownAbi, missingLibraries, releaseOf, runningXen, supportedReleases } from './release.ts';
import { checkDom0 } from './self-test.ts';
import { toWords } from './words.ts';

/** Maximum number of gfns that getpageframeinfo3 takes in one call (xen/arch/x86/domctl.c). */
const PAGE_TYPE_CHUNK = 1024;
const XTAB = PFINFO.XEN_DOMCTL_PFINFO_XTAB >>> PFINFO.XEN_DOMCTL_PFINFO_LTAB_SHIFT;
/** getpageframeinfo3's answer for gfns without a page. */
const XTAB_WORDS = Uint32Array.from({ length: 2 * PAGE_TYPE_CHUNK }, (_, at) =>
  at % 2 === 0 ? PFINFO.XEN_DOMCTL_PFINFO_XTAB : 0,
);
/**
 * Approximate cost in milliseconds of handing a call to another thread, if the threads sleep or the
 * processors are busy.
 */
const HANDOVER_MS = 0.1;
/** After so many calls that were handed over, one is made in this thread again: the first one takes longer than the others. */
const MEASURE_AGAIN = 16;

/** Arguments of xc_shadow_control, behind the domid. */
const ENABLE_LOG = [SHADOW_OP.XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, 0n, 0] as const;

/** Options of `XenControl.open`. */
export interface OpenXenOptions {
  /** Whether a release that is newer than all in `ABIS` may be used, for HVM and PVH guests. Default: false. */
  readonly untested?: boolean | undefined;
}

/** A domain, as struct xen_domctl_getdomaininfo describes it. */
export interface DomainInfo {
  /** In lower case, with dashes. */
  readonly uuid: string;
  readonly hvm: boolean;
  readonly paused: boolean;
  readonly dying: boolean;
  /** SHUTDOWN_* if the domain has shut down. */
  readonly shutdownReason: number | undefined;
  readonly memoryBytes: number;
  /** mfn of a PV guest's shared info page; meaningless for other guests. */
  readonly sharedInfoFrame: bigint;
  readonly maxVcpuId: number;
}

/** Numbers of pages for populate on demand. */
export interface PodCounts {
  /** Reserved for the guest. */
  readonly cachePages: number;
  /** Pages that the guest believes to have, and gets when it touches them. */
  readonly entries: number;
}

export interface TscNumbers {
  readonly mode: number;
  readonly khz: number;
  readonly nsec: bigint;
  readonly incarnation: number;
}

interface Libraries {
  readonly abi: Abi;
  readonly libc: Bound<typeof LIBC>;
  readonly toollog: Bound<typeof TOOLLOG>;
  readonly ctrl: Bound<typeof XENCTRL> & Bound<typeof XENCTRL_PRIVATE>;
  readonly guest: Bound<typeof XENGUEST>;
}
type Bound<L extends { functions: object }> = Readonly<Record<keyof L['functions'], NativeFunction>>;

interface Handles {
  readonly xch: bigint;
  readonly logger: bigint;
  readonly file: bigint;
}

/**
 * Makes hypercalls through libxenctrl. Calls may run side by side.
 * @throws {XenCallError} If a call fails; by each method, unless it says otherwise.
 */
export class XenControl implements AsyncDisposable {
  readonly version: XenVersion;
  readonly #memory: ForeignMemory;
  readonly #maps: TableMaps;
  readonly #libraries: Libraries;
  #handles: Handles | undefined;
  /** How long asking for one page's type has taken in this thread, in milliseconds. */
  #typeMs = 0;
  /** Calls for types that were handed over since. */
  #handedOver = 0;
  /** Buffer for calls in this thread. */
  readonly #words = new Uint32Array(2 * PAGE_TYPE_CHUNK);

  private constructor(
    version: XenVersion,
    libraries: Libraries,
    handles: Handles,
    koffi: Awaited<ReturnType<typeof loadKoffi>>,
  ) {
    this.version = version;
    this.#libraries = libraries;
    this.#handles = handles;
    const { ctrl, guest, libc } = libraries;
    const foreign = bind(koffi, FOREIGNMEMORY);
    const handle = ctrl.xc_interface_fmem_handle.callHere(handles.xch).value;
    this.#memory = new ForeignMemory(koffi, { ...foreign, ...libc }, handle, {
      xxh3: bindIfInstalled(koffi, XXHASH)?.XXH3_64bits,
    });
    const xch = (): bigint => this.#open('PvDomain');
    this.#maps = new TableMaps({ koffi, foreign, mapM2p: guest, handle, xch });
  }

  /** How far it is proven that xlsnap works on the running release. */
  get proof(): AbiProof {
    return this.#libraries.abi.proof;
  }

  /**
   * Finds the libraries of the running Xen and opens its control interface.
   * @throws {EnvironmentError} If this is not a dom0 (XEN_INTERFACE), libraries are missing (XEN_LIBRARY), this Xen is not a
   * supported one (XEN_UNSUPPORTED, XEN_UNTESTED), or the self-test of an untested one fails (XEN_SELF_TEST).
   */
  static async open({ untested = false }: OpenXenOptions = {}): Promise<XenControl> {
    const koffi = await loadKoffi();
    const libc = bind(koffi, LIBC);
    const toollog = bind(koffi, TOOLLOG);
    const running = releaseOf(await runningXen());
    let seen = running;
    let missing: unknown;
    // If the kernel does not say which Xen runs, Xen does: any library can ask it.
    const abis = running === undefined ? [...ABIS] : [abiFor(running, untested)];
    for (const abi of abis) {
      let ctrl: Libraries['ctrl'];
      let guest: Libraries['guest'];
      try {
        ctrl = { ...bind(koffi, XENCTRL, abi.release), ...bind(koffi, XENCTRL_PRIVATE, abi.release) };
        guest = bind(koffi, XENGUEST, abi.release);
      } catch (error) {
        missing = error;
        continue;
      }
      const handles = openInterface(libc, toollog, ctrl);
      const version = await readVersion(ctrl, handles.xch);
      const release = `${version.major}.${version.minor}`;
      if (release === abi.release) {
        const xen = new XenControl(version, { abi, libc, toollog, ctrl, guest }, handles, koffi);
        if (abi.proof === 'none') await xen.#selfTest();
        return xen;
      }
      // Libraries of several releases may be installed; only those of the running Xen can talk to it.
      await closeInterface(libc, toollog, ctrl, handles);
      if (seen === undefined && knownAbi(release) === undefined) abis.push(abiFor(release, untested));
      seen = release;
    }
    if (seen !== undefined) throw missingLibraries(seen, missing);
    throw new EnvironmentError('XEN_LIBRARY', 'there are no libraries of a supported Xen', {
      cause: missing,
      hint: `xlsnap supports Xen ${supportedReleases()}; its libraries come with xl`,
    });
  }

  async #selfTest(): Promise<void> {
    try {
      checkDom0(await this.domainInfo(toDomid(0)));
    } catch (error) {
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Returns what Xen knows about a domain, or `undefined` if there is no such domain. */
  async domainInfo(domid: Domid): Promise<DomainInfo | undefined> {
    const layout = this.#libraries.abi.domainInfo;
    const info = new DataView(new ArrayBuffer(layout.size));
    const { xc_domain_getinfolist } = this.#libraries.ctrl;
    const found = this.#quick(xc_domain_getinfolist, domid, 1, info);
    // The list begins with the first domain that has this domid or a higher one.
    if (found < 1 || info.getUint16(layout.domain, true) !== domid) return undefined;
    const flags = info.getUint32(layout.flags, true);
    const pages = toSafeNumber(info.getBigUint64(layout.tot_pages, true), 'tot_pages');
    return {
      uuid: formatUuid(new Uint8Array(info.buffer, layout.handle, 16)),
      hvm: (flags & DOMINF.XEN_DOMINF_hvm_guest) !== 0,
      paused: (flags & DOMINF.XEN_DOMINF_paused) !== 0,
      dying: (flags & DOMINF.XEN_DOMINF_dying) !== 0,
      shutdownReason:
        (flags & DOMINF.XEN_DOMINF_shutdown) === 0
          ? undefined
          : (flags >>> DOMINF.XEN_DOMINF_shutdownshift) & DOMINF.XEN_DOMINF_shutdownmask,
      memoryBytes: pages * PAGE_SIZE,
      sharedInfoFrame: info.getBigUint64(layout.shared_info_frame, true),
      maxVcpuId: info.getUint32(layout.max_vcpu_id, true),
    };
  }

  /** Returns whether the running Xen has shadow paging. */
  shadowPaging(): boolean {
    const { info, fields } = this.#physinfo();
    return (info.getUint32(fields.capabilities, true) & PHYSCAP.XEN_SYSCTL_PHYSCAP_shadow) !== 0;
  }

  /** Returns the memory in bytes that Xen can give to a domain now: free, and not promised to another. */
  freeMemory(): number {
    const { info, fields } = this.#physinfo();
    const pages = (offset: number, what: string): number =>
      toSafeNumber(info.getBigUint64(offset, true), what);
    const free = pages(fields.free_pages, 'free_pages') + pages(fields.scrub_pages, 'scrub_pages');
    return Math.max(0, free - pages(fields.outstanding_pages, 'outstanding_pages')) * PAGE_SIZE;
  }

  #physinfo(): { readonly info: DataView; readonly fields: PvCallLayouts['xen_sysctl_physinfo'] } {
    const { abi, ctrl } = this.#libraries;
    const { xen_sysctl_physinfo: fields } = abi.pvCalls;
    const info = new DataView(new ArrayBuffer(fields.size));
    this.#quick(ctrl.xc_physinfo, info);
    return { info, fields };
  }

  /** Counts the pages that an HVM or PVH guest has yet to be given (populate on demand). */
  async podCounts(domid: Domid): Promise<PodCounts> {
    const [total, cache, entries] = [new BigUint64Array(1), new BigUint64Array(1), new BigUint64Array(1)];
    this.#quick(this.#libraries.ctrl.xc_domain_get_pod_target, domid, total, cache, entries);
    return {
      cachePages: toSafeNumber(cache[0] ?? 0n, 'pod_cache_pages'),
      entries: toSafeNumber(entries[0] ?? 0n, 'pod_entries'),
    };
  }

  // Everything that stops or resumes a guest, and what happens in between, runs in this thread: files that
  // hang could hold every thread of libuv's pool. Also, a shutdown that waits for a thread could take effect
  // when nothing is left that resumes the guest.

  /** Pauses a domain. Pauses are counted: each needs its unpause. */
  async pause(domid: Domid): Promise<void> {
    this.#quick(this.#libraries.ctrl.xc_domain_pause, domid);
  }

  async unpause(domid: Domid): Promise<void> {
    this.#quick(this.#libraries.ctrl.xc_domain_unpause, domid);
  }

  /** Shuts a domain down from outside, without asking it. */
  async shutdown(domid: Domid, reason: number): Promise<void> {
    this.#quick(this.#libraries.ctrl.xc_domain_shutdown, domid, reason);
  }

  /**
   * Resumes a suspended domain as after a cancelled suspend: the guest's suspend call returns 1 (xenguest.h,
   * xc_domain_resume with fast = 1).
   */
  async resume(domid: Domid): Promise<void> {
    this.#quick(this.#libraries.guest.xc_domain_resume, domid, 1);
  }

  /** Returns the number of gfns, one more than the highest. */
  async nrGpfns(domid: Domid): Promise<number> {
    const count = new BigUint64Array(1);
    this.#quick(this.#libraries.ctrl.xc_domain_nr_gpfns, domid, count);
    return toSafeNumber(count[0] ?? 0n, 'number of gfns');
  }

  /** Returns the page type of each gfn, 0 to 15. */
  pageTypes(domid: Domid, gfns: Uint32Array): Promise<Uint8Array> {
    return this.#pageTypes(domid, gfns.length, (words, from) => {
      toWords(gfns.subarray(from, from + words.length / 2), words);
    });
  }

  /** Returns the page type of each of `count` gfns from `first` on. */
  pageTypesFrom(domid: Domid, first: number, count: number): Promise<Uint8Array> {
    return this.#pageTypes(domid, count, (words, from) => {
      for (let at = 0; at < words.length; at += 2) {
        words[at] = first + from + at / 2;
        words[at + 1] = 0;
      }
    });
  }

  /**
   * Asks for page types in batches.
   * @param fill writes the gfns from the given index on to an array of xen_pfn_t
   */
  async #pageTypes(
    domid: Domid,
    count: number,
    fill: (words: Uint32Array, from: number) => void,
  ): Promise<Uint8Array> {
    const types = new Uint8Array(count).fill(XTAB);
    const { xc_get_pfn_type_batch } = this.#libraries.ctrl;
    const asked: Promise<void>[] = [];
    for (let from = 0; from < count; from += PAGE_TYPE_CHUNK) {
      const length = Math.min(PAGE_TYPE_CHUNK, count - from);
      const here = length * this.#typeMs < HANDOVER_MS || this.#handedOver === MEASURE_AGAIN;
      const words = here ? this.#words.subarray(0, 2 * length) : new Uint32Array(2 * length);
      fill(words, from);
      const take = (): void => {
        // Most of a small guest's p2m is empty.
        if (sameBytes(words, XTAB_WORDS.subarray(0, 2 * length))) return;
        for (let i = 0; i < length; i++) {
          types[from + i] = (words[2 * i] ?? 0) >>> PFINFO.XEN_DOMCTL_PFINFO_LTAB_SHIFT;
        }
      };
      if (here) {
        const start = performance.now();
        this.#quick(xc_get_pfn_type_batch, domid, length, words);
        this.#typeMs = (performance.now() - start) / length;
        this.#handedOver = 0;
        take();
      } else {
        this.#handedOver++;
        asked.push(this.#call(xc_get_pfn_type_batch, domid, length, words).then(take));
      }
    }
    // All must end, so that none is in flight when the interface is closed.
    const failure = (await Promise.allSettled(asked)).find((outcome) => outcome.status === 'rejected');
    if (failure !== undefined) throw failure.reason;
    return types;
  }

  /**
   * Copies what makes one stretch of the file `fd`, from `position` on, and starts to write it: the head from `makeHead`, then the
   * pages with data, back to back. Stretches are written one at a time.
   * @throws {XenCallError} If nothing can be mapped.
   */
  async packPages(
    domid: Domid,
    gfns: Uint32Array,
    fd: number,
    position: number,
    makeHead: HeadMaker,
    options: PackOptions = {},
  ): Promise<PackedPages> {
    this.#open('packPages');
    return await this.#memory.packPages(domid, gfns, fd, position, makeHead, options);
  }

  /**
   * Copies pages to `into`, page i to byte 4096 * i.
   * @param rewriter for pages that must be changed in the copy
   * @returns the kind of each page, which is `data` or `unmapped`
   * @throws {XenCallError} If nothing can be mapped.
   */
  async readPages(
    domid: Domid,
    gfns: Uint32Array,
    into: Uint8Array,
    rewriter?: PageRewriter,
  ): Promise<Uint8Array> {
    this.#open('readPages');
    return await this.#memory.readPages(domid, gfns, into, rewriter);
  }

  /**
   * Opens the tables of a PV domain. The result must be closed before this object.
   * @param info the domain's, from `domainInfo`
   * @throws {XenCallError} If a call fails.
   * @throws {DomainError} If the guest's tables make no sense.
   * @throws {EnvironmentError} If this host or this width of guest is not supported.
   */
  async openPv(domid: Domid, info: DomainInfo): Promise<PvDomain> {
    if (this.proof === 'none') {
      throw new EnvironmentError(
        'XEN_UNTESTED_PV',
        'PV guests cannot be saved on a release that xlsnap does not know',
        {
          domid,
          hint: 'PV guests need calls that change with each release; use a newer xlsnap',
        },
      );
    }
    return await PvDomain.open({ calls: this.#pvCalls(), maps: this.#maps }, domid, info);
  }

  #pvCalls(): PvCalls {
    const { abi, ctrl } = this.#libraries;
    return new PvCalls({
      abi,
      ctrl,
      xch: () => this.#open('PvDomain'),
      call: (fn, ...args) => this.#quick(fn, ...args),
      copyOut: (address, length) => this.#memory.copyOut(address, length),
    });
  }

  /**
   * Returns whether a domain that does not run has reached an operating system: an HVM or PVH guest has
   * turned paging on, a PV guest has set its GDT. A domain that has never run has done neither.
   * @throws {XenCallError} If a call fails.
   * @throws {EnvironmentError} If the guest's width is not supported.
   */
  async hasBooted(domid: Domid, hvm: boolean): Promise<boolean> {
    if (!hvm) return this.#pvCalls().hasGdt(domid);
    return pagingIsOn(await this.hvmContext(domid)) !== false;
  }

  /**
   * Turns log-dirty mode on. If it is on already, for example to track a screen, it is taken over and
   * restarted.
   * @param gfns how many gfns later calls will ask for
   */
  async startDirtyLog(domid: Domid, gfns: number): Promise<void> {
    const { xc_shadow_control } = this.#libraries.ctrl;
    const enable = (): Promise<number> => this.#call(xc_shadow_control, domid, ...ENABLE_LOG);
    try {
      await enable();
    } catch {
      // tools/libs/guest/xg_sr_save.c: enable_logdirty.
      await this.stopDirtyLog(domid);
      await enable();
    }
    // As in tools/libs/guest/xg_sr_save.c: enable_logdirty.
    await this.#clean(domid, gfns, false);
  }

  async stopDirtyLog(domid: Domid): Promise<void> {
    const { xc_shadow_control } = this.#libraries.ctrl;
    await this.#call(xc_shadow_control, domid, SHADOW_OP.XEN_DOMCTL_SHADOW_OP_OFF, 0n, 0);
  }

  /**
   * Returns the bitmap of gfns written since the last call, or since the log was started, and clears Xen's
   * own. If another program has restarted the log since, and so lost some, all are set and `whole` is false.
   * @param gfns how many gfns the bitmap covers
   * @param final includes what Xen's emulation of devices holds mapped: for a suspended guest
   * @throws {DomainError} DIRTY_LOG_LOST if `final`, and the log was restarted or is off.
   */
  async takeDirty(
    domid: Domid,
    gfns: number,
    final: boolean,
  ): Promise<{ readonly bitmap: Uint8Array; readonly whole: boolean }> {
    if (final && !this.#logsDirty(domid)) throw logLost(domid);
    const taken = await takeBitmap(() => this.#clean(domid, gfns, final));
    if (taken.whole) return taken;
    if (final) throw logLost(domid);
    return { bitmap: allOnes(gfns), whole: false };
  }

  /** Returns the bitmap of gfns written so far, and leaves Xen's own as it is. It is empty if the log is off. */
  async peekDirty(domid: Domid, gfns: number): Promise<Uint8Array> {
    return (await this.#logDirtyOp(SHADOW_OP.XEN_DOMCTL_SHADOW_OP_PEEK, domid, gfns, 0)).bitmap;
  }

  /** Sets a gfn's bit in the dirty log of an HVM or PVH domain. Does nothing if the log is off, or there is no such page. */
  async markDirty(domid: Domid, gfn: number): Promise<void> {
    await this.#call(this.#libraries.ctrl.xc_hvm_modified_memory, domid, BigInt(gfn), 1n);
  }

  /**
   * Takes and clears Xen's bitmap.
   * @returns also how many gfns Xen has counted since the last call (xen/arch/x86/mm/paging.c:
   * paging_mark_pfn_dirty)
   */
  async #clean(domid: Domid, gfns: number, final: boolean): Promise<CleanedLog> {
    const mode = final ? SHADOW_OP.XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL : 0;
    return await this.#logDirtyOp(SHADOW_OP.XEN_DOMCTL_SHADOW_OP_CLEAN, domid, gfns, mode);
  }

  async #logDirtyOp(op: number, domid: Domid, gfns: number, mode: number): Promise<CleanedLog> {
    const { abi, ctrl } = this.#libraries;
    const length = Math.ceil(gfns / 64) * 8;
    const xch = this.#open('takeDirty');
    // xen/include/public/domctl.h: struct xen_domctl_shadow_op_stats, fault_count and dirty_count. In an
    // ArrayBuffer of its own, since it must not move.
    const stats = new Uint32Array(new ArrayBuffer(8));
    const bitmap = await withHypercallBuffer(
      ctrl,
      xch,
      abi.hypercallBufferSize,
      length,
      async ({ struct, address }) => {
        const args = [domid, op, struct, gfns, mode, stats] as const;
        // A thread would take as long to begin; but a running guest's log must not hold this one up.
        const stopped = mode === SHADOW_OP.XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL;
        const seen = stopped
          ? this.#quick(ctrl.xc_logdirty_control, ...args)
          : await this.#call(ctrl.xc_logdirty_control, ...args);
        if (seen !== gfns) {
          throw new XenCallError('xc_logdirty_control', 0, { domid, data: { expected: gfns, seen } });
        }
        return this.#memory.copyOut(address, length);
      },
    );
    return { bitmap, count: stats[1] ?? 0 };
  }

  /**
   * Returns whether log-dirty mode is on; afterwards it is on in any case. Xen cannot be asked, and returns
   * an empty bitmap if the mode is off; but turning it on fails if it is on already
   * (xen/arch/x86/mm/paging.c: paging_log_dirty_enable). In this thread, since the guest is stopped.
   */
  #logsDirty(domid: Domid): boolean {
    const { xc_shadow_control } = this.#libraries.ctrl;
    const { value, errno } = xc_shadow_control.callHere(this.#open('takeDirty'), domid, ...ENABLE_LOG);
    if (value >= 0) return false;
    if (errnoName(errno) === 'EINVAL') return true;
    throw new XenCallError(xc_shadow_control.name, errno, { domid });
  }

  async tscInfo(domid: Domid): Promise<TscNumbers> {
    const mode = new Uint32Array(1);
    const nsec = new BigUint64Array(1);
    const khz = new Uint32Array(1);
    const incarnation = new Uint32Array(1);
    const { xc_domain_get_tsc_info } = this.#libraries.ctrl;
    this.#quick(xc_domain_get_tsc_info, domid, mode, nsec, khz, incarnation);
    return {
      mode: mode[0] ?? 0,
      khz: khz[0] ?? 0,
      nsec: nsec[0] ?? 0n,
      incarnation: incarnation[0] ?? 0,
    };
  }

  /** Returns the whole HVM context: save descriptors and their data. */
  async hvmContext(domid: Domid): Promise<Uint8Array> {
    const { xc_domain_hvm_getcontext } = this.#libraries.ctrl;
    const room = this.#quick(xc_domain_hvm_getcontext, domid, 0n, 0);
    const context = new Uint8Array(room);
    const length = this.#quick(xc_domain_hvm_getcontext, domid, context, room);
    return context.subarray(0, length);
  }

  async hvmParam(domid: Domid, index: number): Promise<bigint> {
    const value = new BigUint64Array(1);
    this.#quick(this.#libraries.ctrl.xc_hvm_param_get, domid, index, value);
    return value[0] ?? 0n;
  }

  /** Returns the domain's CPU policy: arrays of xen_cpuid_leaf_t and xen_msr_entry_t. */
  async cpuPolicy(domid: Domid): Promise<{ leaves: Uint8Array; msrs: Uint8Array }> {
    const { abi, guest } = this.#libraries;
    const leafCount = new Uint32Array(1);
    const msrCount = new Uint32Array(1);
    await this.#call(guest.xc_cpu_policy_get_size, leafCount, msrCount);
    const leaves = new Uint8Array((leafCount[0] ?? 0) * abi.cpuidLeafSize);
    const msrs = new Uint8Array((msrCount[0] ?? 0) * abi.msrEntrySize);
    const policy = guest.xc_cpu_policy_init.callHere();
    if (policy.value === 0n) throw new XenCallError('xc_cpu_policy_init', policy.errno);
    try {
      await this.#call(guest.xc_cpu_policy_get_domain, domid, policy.value);
      await this.#call(guest.xc_cpu_policy_serialise, policy.value, leaves, leafCount, msrs, msrCount);
    } finally {
      guest.xc_cpu_policy_destroy.callHere(policy.value);
    }
    return {
      leaves: leaves.subarray(0, (leafCount[0] ?? 0) * abi.cpuidLeafSize),
      msrs: msrs.subarray(0, (msrCount[0] ?? 0) * abi.msrEntrySize),
    };
  }

  /** Closes the control interface. No call may be in flight. */
  async [Symbol.asyncDispose](): Promise<void> {
    const handles = this.#handles;
    if (handles === undefined) return;
    this.#handles = undefined;
    const { libc, toollog, ctrl } = this.#libraries;
    await closeInterface(libc, toollog, ctrl, handles);
  }

  /**
   * Calls a function with the interface as its first argument, in a thread of the pool. A result of -1 is an
   * error.
   */
  async #call(fn: NativeFunction, ...args: NativeArgument[]): Promise<number> {
    return succeeded(fn, args, await fn.call(this.#open(fn.name), ...args));
  }

  /** Does the same in this thread, for calls that take a few microseconds. */
  #quick(fn: NativeFunction, ...args: NativeArgument[]): number {
    return succeeded(fn, args, fn.callHere(this.#open(fn.name), ...args));
  }

  #open(what: string): bigint {
    if (this.#handles === undefined) throw closed(what);
    return this.#handles.xch;
  }
}

function succeeded(
  fn: NativeFunction,
  args: readonly NativeArgument[],
  { value, errno }: NativeResult,
): number {
  if (value >= 0) return Number(value);
  const domid = typeof args[0] === 'number' ? args[0] : undefined;
  throw new XenCallError(fn.name, errno, { domid });
}

function openInterface(
  libc: Libraries['libc'],
  toollog: Libraries['toollog'],
  ctrl: Libraries['ctrl'],
): Handles {
  // Without our logger libxenctrl writes to stderr. Our errors say the same.
  const file = pointer(libc.fopen.callHere('/dev/null', 'w').value);
  const logger = pointer(toollog.xtl_createlogger_stdiostream.callHere(file, XTL.XTL_CRITICAL, 0).value);
  const { value, errno } = ctrl.xc_interface_open.callHere(logger, logger, 0);
  if (value === 0n) {
    toollog.xtl_logger_destroy.callHere(logger);
    libc.fclose.callHere(file);
    throw new EnvironmentError('XEN_INTERFACE', `cannot open Xen's control interface: ${errnoName(errno)}`, {
      hint: 'run it as root in dom0; /dev/xen/privcmd must exist',
    });
  }
  return { xch: pointer(value), logger, file };
}

async function closeInterface(
  libc: Libraries['libc'],
  toollog: Libraries['toollog'],
  ctrl: Libraries['ctrl'],
  handles: Handles,
): Promise<void> {
  await ctrl.xc_interface_close.call(handles.xch);
  toollog.xtl_logger_destroy.callHere(handles.logger);
  libc.fclose.callHere(handles.file);
}

async function readVersion(ctrl: Libraries['ctrl'], xch: bigint): Promise<XenVersion> {
  const { value, errno } = await ctrl.xc_version.call(xch, XENVER.XENVER_version, 0n);
  const number = Number(value);
  if (number < 0) throw new XenCallError('xc_version', errno);
  const text = new Uint8Array(EXTRAVERSION_SIZE);
  const extra = await ctrl.xc_version.call(xch, XENVER.XENVER_extraversion, text);
  if (extra.value < 0) throw new XenCallError('xc_version', extra.errno);
  return { major: number >>> 16, minor: number & 0xffff, extra: cString(text) };
}

function closed(what: string): TypeError {
  return new TypeError(`${what} after XenControl was closed`);
}

function sameBytes(one: Uint32Array, other: Uint32Array): boolean {
  return Buffer.compare(bytes(one), bytes(other)) === 0;
}

function bytes(words: Uint32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

function pointer(value: number | bigint): bigint {
  if (typeof value !== 'bigint') throw new TypeError(`no pointer: ${value}`);
  return value;
}

function cString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

function formatUuid(handle: Uint8Array): string {
  const hex = Array.from(handle, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function logLost(domid: Domid): DomainError {
  return new DomainError('DIRTY_LOG_LOST', 'another program has turned log-dirty mode off', {
    domid,
    hint: 'is another program migrating the domain? try again when that has finished',
  });
}
