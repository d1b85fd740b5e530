/** How much memory a configuration lets a restored domain have, and how much its memory file gives it. */
import { PAGE_SIZE } from '../core/brand.ts';
import { isRecord } from '../core/guards.ts';
import type { LibxlConfig } from './libxl-config.ts';
import { numberOf } from './libxl-fields.ts';

/** What libxl lets a domain have beyond its target (libxl_internal.h: LIBXL_MAXMEM_CONSTANT), KiB. */
const SLACK_KIB = 1024;
const PAGE_KIB = PAGE_SIZE / 1024;

/**
 * The same configuration with a target that has room for so many pages. libxl stops a restore at the first page beyond it
 * (libxl_dom.c: libxl__build_pre), and a guest may have more: its balloon driver is on its way to a lower target, or a
 * running one has given pages back that are in the file already.
 * @returns `undefined` when it has room for them, or names no target
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
      // A target above it is an error to some, and to others memory that the guest believes to have.
      ...(most === undefined || most >= needed ? {} : { max_memkb: needed }),
    },
  };
}

/** What is to be known about it. */
export function roomText(config: LibxlConfig, pages: number): string {
  const mib = (kib: number): string => `${Math.ceil(kib / 1024)} MiB`;
  const target = numberOf(config, 'b_info', 'target_memkb') ?? 0;
  return `the guest has ${mib(pages * PAGE_KIB)} of memory, more than its target of ${mib(target)}`;
}
