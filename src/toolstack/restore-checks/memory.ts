/** Checks whether the host has the memory that a restore needs. */

import { PAGE_SIZE } from '../../core/brand.ts';
import type { Problem } from '../../core/problem.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { domainType, flagOf, numberOf } from '../../memfile/libxl-fields.ts';

const KIB = 1024;
const MIB = 1024 ** 2;
/** What libxl adds to a domain's memory (libxl_internal.h: LIBXL_PV_EXTRA_MEMORY, LIBXL_HVM_EXTRA_MEMORY), bytes. */
const PV_EXTRA = MIB;
const HVM_EXTRA = 2 * MIB;
/** Below this xl leaves dom0 its memory (libxl_internal.h: LIBXL_MIN_DOM0_MEM), bytes. */
const DOM0_LEAST = 128 * MIB;

/** The host's memory, bytes. */
export interface MemoryOfHost {
  readonly free: number;
  /** What the domain has that goes before the restore; 0 without one. */
  readonly freed: number;
  /** Where xl takes what is missing from dom0: what that has. Absent where xl does not. */
  readonly dom0?: {
    readonly total: number;
    /** What its programs do not need, as its kernel sees it. */
    readonly available: number;
  };
}

/** What prevents it: for certain, or perhaps. */
export interface MemoryVerdict {
  readonly obstacle?: Problem;
  readonly risk?: string;
}

/**
 * Compares what a restore needs with what there is.
 *
 * xl wants to have all free that the domain may use at its target (libxl_mem.c: libxl_domain_need_memory), where it may
 * take the rest from dom0. Where it may not, it asks for nothing, and the restore fails when a page of the file finds
 * no room: then only the pages count.
 * @param pages in the file
 */
export function judgeMemory(config: LibxlConfig, pages: number, host: MemoryOfHost): MemoryVerdict {
  const tables = pagingBytes(config);
  const least = pages * PAGE_SIZE + tables;
  const room = host.free + host.freed;
  const { dom0 } = host;
  if (dom0 === undefined) return room >= least ? {} : { obstacle: tooLittle(least, host) };
  const extra = domainType(config) === 'pv' ? PV_EXTRA : HVM_EXTRA;
  const target = (numberOf(config, 'b_info', 'target_memkb') ?? 0) * KIB;
  const wanted = Math.ceil((Math.max(target, pages * PAGE_SIZE) + tables + extra) / (2 * MIB)) * 2 * MIB;
  const missing = wanted - room;
  if (missing <= 0) return {};
  if (missing > dom0.total - DOM0_LEAST) return { obstacle: tooLittle(wanted, host) };
  if (missing <= dom0.available) return {};
  return {
    risk:
      `the restore needs ${mib(wanted)} of memory and ${mib(room)} will be free: xl would take ${mib(missing)} from dom0, ` +
      `of which only ${mib(dom0.available)} is unused`,
  };
}

/**
 * Memory for its page tables that Xen sets apart for such a domain, bytes. What the configuration leaves to libxl is as
 * libxl has it: 1 MiB for each vCPU, a page for each MiB of memory, and two without the processor's help
 * (libxl_create.c: libxl__get_required_paging_memory).
 */
export function pagingBytes(config: LibxlConfig): number {
  const iommu = numberOf(config, 'b_info', 'iommu_memkb') ?? 0;
  if (domainType(config) === 'pv') return iommu * KIB;
  const given = numberOf(config, 'b_info', 'shadow_memkb');
  const vcpus = numberOf(config, 'b_info', 'max_vcpus') ?? 1;
  const mibs = Math.floor((numberOf(config, 'b_info', 'max_memkb') ?? 0) / KIB);
  const perMib = flagOf(config, 'c_info', 'hap') === false ? 2 : 1;
  const usual = vcpus * MIB + perMib * mibs * PAGE_SIZE;
  return (given === undefined ? usual : given * KIB) + iommu * KIB;
}

function tooLittle(needed: number, { free, freed, dom0 }: MemoryOfHost): Problem {
  const own = freed === 0 ? '' : ` and ${mib(freed)} are the domain's own`;
  const rest =
    dom0 === undefined ? '' : `; dom0 has ${mib(dom0.total)}, which is not enough to make up for it`;
  return {
    code: 'NO_MEMORY',
    message: `the restore needs ${mib(needed)} of memory, but ${mib(free)} are free${own}${rest}`,
    hint: 'shut other domains down, or make them smaller (xl mem-set); `xl info` shows free_memory',
  };
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / MIB)} MiB`;
}
