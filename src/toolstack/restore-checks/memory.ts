/** Checks whether the host has the memory that a restore needs. */

import { PAGE_SIZE } from '../../core/brand.ts';
import type { Problem } from '../../core/problem.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { domainType, flagOf, numberOf } from '../../memfile/libxl-fields.ts';

const KIB = 1024;
const MIB = 1024 ** 2;
/**
 * What libxl adds to a domain's memory, in bytes (libxl_internal.h: LIBXL_PV_EXTRA_MEMORY,
 * LIBXL_HVM_EXTRA_MEMORY).
 */
const PV_EXTRA = MIB;
const HVM_EXTRA = 2 * MIB;
/** Memory in bytes that xl leaves to dom0 (libxl_internal.h: LIBXL_MIN_DOM0_MEM). */
const DOM0_LEAST = 128 * MIB;

/** The host's memory in bytes. */
export interface MemoryOfHost {
  readonly free: number;
  /** Memory of the domain that is destroyed before the restore; 0 if there is none. */
  readonly freed: number;
  /** Memory of dom0, from which xl takes what is missing. Absent if xl does not. */
  readonly dom0?: {
    readonly total: number;
    /** What its programs do not need, as its kernel sees it. */
    readonly available: number;
  };
}

/** What prevents the restore, for certain or perhaps. */
export interface MemoryVerdict {
  readonly obstacle?: Problem;
  readonly risk?: string;
}

/**
 * Compares the memory that a restore needs with what the host has.
 *
 * If xl may take memory from dom0, it wants everything free that the domain may use at its target
 * (libxl_mem.c: libxl_domain_need_memory). If not, it checks nothing, and the restore fails when there is no
 * memory for a page of the file; then only the pages count.
 * @param pages number of pages in the file
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
 * Returns the memory in bytes that Xen reserves for such a domain's page tables. What the configuration
 * leaves to libxl follows libxl: 1 MiB for each vCPU, a page for each MiB of memory, and two pages without
 * the processor's help (libxl_create.c: libxl__get_required_paging_memory).
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
  const own = freed === 0 ? '' : ` and ${mib(freed)} is the domain's own`;
  const rest =
    dom0 === undefined ? '' : `; dom0 has ${mib(dom0.total)}, which is not enough to make up for it`;
  return {
    code: 'NO_MEMORY',
    message: `the restore needs ${mib(needed)} of memory, but ${mib(free)} is free${own}${rest}`,
    hint: 'shut other domains down, or make them smaller (xl mem-set); `xl info` shows free_memory',
  };
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / MIB)} MiB`;
}
