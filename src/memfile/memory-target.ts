/** Compares the memory that a configuration allows a restored domain with what its memory file has. */
import { PAGE_SIZE } from '../core/brand.ts';
import { isRecord } from '../core/guards.ts';
import type { LibxlConfig } from './libxl-config.ts';
import { numberOf } from './libxl-fields.ts';

/** Memory in KiB that libxl allows a domain beyond its target (libxl_internal.h: LIBXL_MAXMEM_CONSTANT). */
const SLACK_KIB = 1024;
const PAGE_KIB = PAGE_SIZE / 1024;

/**
 * Returns the configuration with a target that allows the given number of pages. libxl stops a restore at the
 * first page beyond the target (libxl_dom.c: libxl__build_pre), and a guest may have more pages: its balloon
 * driver has not reached a lower target yet, or a running guest returned pages that are already in the file.
 * @returns `undefined` if the target is high enough, or there is none
 */
export function withRoomFor(config: LibxlConfig, pages: number): LibxlConfig | undefined {
  const build = config['b_info'];
  const target = numberOf(build, 'target_memkb');
  const needed = pages * PAGE_KIB;
  if (!isRecord(build) || target === undefined || needed <= target + SLACK_KIB) return undefined;
  const most = numberOf(build, 'max_memkb');
  return {
    ...config,
    b_info: {
      ...build,
      target_memkb: needed,
      // Some versions refuse a target above the maximum; others take it as memory that the guest believes to
      // have.
      ...(most === undefined || most >= needed ? {} : { max_memkb: needed }),
    },
  };
}

/** Describes the mismatch, for a message. */
export function roomText(config: LibxlConfig, pages: number): string {
  const mib = (kib: number): string => `${Math.ceil(kib / 1024)} MiB`;
  const target = numberOf(config, 'b_info', 'target_memkb') ?? 0;
  return `the guest has ${mib(pages * PAGE_KIB)} of memory, more than its target of ${mib(target)}`;
}
