/**
 * Page tables of PV guests. Their entries hold mfns; those in a save file hold pfns (libxc-migration-stream,
 * "PAGE_DATA", and tools/libs/guest/xg_sr_save_x86_pv.c).
 */
import { type FrameTable, NO_FRAME } from './frame-table.ts';

/** Number of 32-bit words in a page of page table entries, which have 64 bits each. */
export const TABLE_WORDS = 1024;
const ENTRIES = 512;

/** Bits in the low word of an entry. */
const PRESENT = 1 << 0;
const SUPERPAGE = 1 << 7;
/** Bits 12 to 51 of an entry are the frame: 20 in the low word, 20 in the high word. */
const HIGH_FRAME = 0xfffff;
/** The bits that are set in frames from 2^32 on. */
const HIGH_BEYOND = 0xff000;

/** HYPERVISOR_VIRT_START to END of 64-bit guests, 0xffff8000_00000000 to 0xffff87ff_ffffffff, in an L4. */
const XEN_L4 = { first: 256, last: 271 } as const;
/** PAE guests have 4 entries in their L3. */
const XEN_L3_PAE = { first: 4, last: 511 } as const;
/** HYPERVISOR_VIRT_START to END of 32-bit guests, 0xf5800000 to 0xffffffff, in the L2 that maps them. */
const XEN_L2_PAE = { first: 428, last: 511 } as const;
const NO_SLOTS = { first: ENTRIES, last: -1 } as const;

/** Why a page table cannot be normalised. In a running guest that may be temporary. */
export interface BadEntry {
  readonly level: number;
  readonly index: number;
  readonly reason: 'superpage' | 'mfn out of range' | "not the guest's own page" | 'level';
  /** The entry's frame; NO_FRAME if it has more than 32 bits. */
  readonly mfn: number;
}

/** Translates the frames of one guest. */
export class PageTables {
  readonly #m2p: FrameTable;
  readonly #p2m: FrameTable;
  readonly #ptLevels: 3 | 4;
  readonly #compatM2pMfn: number;

  /**
   * Takes the guest's tables.
   * @param compatM2pMfn the first mfn of the m2p that 32-bit guests see; NO_FRAME for 64-bit guests
   */
  constructor(m2p: FrameTable, p2m: FrameTable, ptLevels: 3 | 4, compatM2pMfn: number) {
    this.#m2p = m2p;
    this.#p2m = p2m;
    this.#ptLevels = ptLevels;
    this.#compatM2pMfn = compatM2pMfn;
  }

  /**
   * Returns the pfn of an mfn if the guest's p2m has the mfn at that pfn, else NO_FRAME. Never returns a pfn
   * beyond the p2m.
   */
  pfnOf(mfn: number): number {
    const pfn = this.#m2p.get(mfn);
    // NO_FRAME is an index beyond any table.
    return mfn !== NO_FRAME && this.#p2m.get(pfn) === mfn ? pfn : NO_FRAME;
  }

  /**
   * Replaces mfns with pfns, in place, and clears the entries that belong to Xen.
   * @param words a copy of the page, TABLE_WORDS of them, which the guest cannot change
   * @param level 1 to 4
   * @returns what is wrong; then the words are unusable
   */
  normalise(words: Uint32Array, level: number): BadEntry | undefined {
    if (level < 1 || level > this.#ptLevels) return { level, index: 0, reason: 'level', mfn: NO_FRAME };
    const { first, last } = this.#xenSlots(words, level);
    const forbidden = level > 1 ? SUPERPAGE : 0;
    for (let index = 0; index < ENTRIES; index++) {
      const at = 2 * index;
      if (index >= first && index <= last) {
        words[at] = 0;
        words[at + 1] = 0;
        continue;
      }
      const low = words[at] ?? 0;
      if ((low & PRESENT) === 0) continue;
      const high = words[at + 1] ?? 0;
      const mfn = (high & HIGH_BEYOND) === 0 ? frameOf(low, high) : NO_FRAME;
      if ((low & forbidden) !== 0) return { level, index, reason: 'superpage', mfn };
      const pfn = this.pfnOf(mfn);
      if (pfn === NO_FRAME) {
        const reason = mfn < this.#m2p.size ? "not the guest's own page" : 'mfn out of range';
        return { level, index, reason, mfn };
      }
      words[at] = (low & 0xfff) | (pfn << 12);
      words[at + 1] = (high & ~HIGH_FRAME) | (pfn >>> 20);
    }
    return undefined;
  }

  #xenSlots(words: Uint32Array, level: number): { readonly first: number; readonly last: number } {
    if (this.#ptLevels === 4) return level === 4 ? XEN_L4 : NO_SLOTS;
    if (level === 3) return XEN_L3_PAE;
    if (level !== 2) return NO_SLOTS;
    const at = 2 * XEN_L2_PAE.first;
    const high = words[at + 1] ?? 0;
    const frame = (high & HIGH_BEYOND) === 0 ? frameOf(words[at] ?? 0, high) : NO_FRAME;
    return frame === this.#compatM2pMfn && frame !== NO_FRAME ? XEN_L2_PAE : NO_SLOTS;
  }
}

/** Returns bits 12 to 43 of an entry. */
export function frameOf(low: number, high: number): number {
  return ((high << 20) | (low >>> 12)) >>> 0;
}

/** Returns the frame of an entry, present or not; NO_FRAME from 2^32 on. */
export function entryFrame(words: Uint32Array, index: number): number {
  const high = words[2 * index + 1] ?? 0;
  return (high & HIGH_BEYOND) === 0 ? frameOf(words[2 * index] ?? 0, high) : NO_FRAME;
}
