/**
 * Finds a PV guest's p2m (xen/arch-x86/xen.h, struct arch_shared_info): a list in its virtual address space,
 * or, in older kernels, a tree of frame lists. The guest writes all of it, so it may contain anything.
 */
import { PAGE_SIZE } from '../../core/brand.ts';
import type { PvGuestLayout } from '../abi.ts';
import { badGuest, hexFrame } from './errors.ts';
import { NO_FRAME } from './frame-table.ts';
import { entryFrame, frameOf } from './page-table.ts';

/**
 * Maximum number of pfns of a p2m: 4 TiB of memory. That is four times what Linux can have as a PV guest, and
 * dom0 needs memory for whatever the guest claims.
 */
export const MAX_P2M_SIZE = 2 ** 30;

/** HYPERVISOR_VIRT_START to END, the low 48 or 32 bits. No guest's p2m can be there. */
const XEN_RANGE = {
  8: { first: 0x8000_0000_0000, last: 0x87ff_ffff_ffff },
  4: { first: 0xf580_0000, last: 0xffff_ffff },
} as const;

/** What a guest says about its p2m. */
export interface P2mClaim {
  /** Number of pfns. */
  readonly maxPfn: bigint;
  /** Root of the address space with the list; 0 if there is no list. */
  readonly p2mCr3: bigint;
  readonly p2mVaddr: bigint;
  /** mfn of the root of the tree. */
  readonly frameListList: bigint;
  /** Number that changes before and after each change of the list. */
  readonly generation: bigint;
}

/** A p2m that was found. */
export interface P2mFrames {
  /** Number of pfns that can have a page. */
  readonly size: number;
  /** The frames that hold the entries, in order. */
  readonly leaves: Uint32Array;
}

/**
 * Copies frames of the guest, 1024 words each, one after the other.
 * @throws {DomainError} If one of them is not the guest's.
 */
export type ReadFrames = (mfns: Uint32Array) => Promise<Uint32Array>;

/** Reads what a shared info page says about the p2m. */
export function readP2mClaim(sharedInfo: Uint8Array, layout: PvGuestLayout): P2mClaim {
  const view = new DataView(sharedInfo.buffer, sharedInfo.byteOffset, sharedInfo.byteLength);
  const word = (at: number): bigint =>
    layout.width === 8 ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
  const fields = layout.shared_info;
  return {
    maxPfn: word(fields['arch.max_pfn']),
    p2mCr3: word(fields['arch.p2m_cr3']),
    p2mVaddr: word(fields['arch.p2m_vaddr']),
    frameListList: word(fields['arch.pfn_to_mfn_frame_list_list']),
    generation: word(fields['arch.p2m_generation']),
  };
}

/**
 * Finds the frames of the p2m. Identical tables at its end are left out: for the rest of the address space
 * that they could have, kernels share one table that says "nothing".
 * @param mfnCount number of mfns that the host has
 * @throws {DomainError} If the guest's tables make no sense.
 */
export async function findP2m(
  claim: P2mClaim,
  layout: PvGuestLayout,
  mfnCount: number,
  read: ReadFrames,
): Promise<P2mFrames> {
  if (claim.maxPfn < 1n || claim.maxPfn > BigInt(MAX_P2M_SIZE)) {
    throw badGuest('P2M_SIZE', `the guest says that its p2m has ${claim.maxPfn} entries`, {
      most: MAX_P2M_SIZE,
    });
  }
  const size = Number(claim.maxPfn);
  const check = (mfn: number, where: string): number => {
    if (mfn === 0 || mfn >= mfnCount || mfn === NO_FRAME) {
      throw badGuest('P2M_FRAME', `the guest's p2m: mfn ${hexFrame(mfn)} in ${where} is impossible`, { mfn });
    }
    return mfn;
  };
  return claim.p2mCr3 === 0n
    ? await walkTree(claim, layout, size, check, read)
    : await walkList(claim, layout, size, check, read);
}

type Check = (mfn: number, where: string) => number;

/**
 * Follows a list at `p2mVaddr` in the address space of `p2mCr3`, through the levels of page tables, from the
 * root down.
 */
async function walkList(
  claim: P2mClaim,
  layout: PvGuestLayout,
  maxPfn: number,
  check: Check,
  read: ReadFrames,
): Promise<P2mFrames> {
  const perFrame = PAGE_SIZE / layout.width;
  const start = listStart(claim.p2mVaddr, layout, Math.ceil(maxPfn / perFrame) * PAGE_SIZE);
  let size = maxPfn;
  let tables = Uint32Array.of(check(cr3Frame(claim.p2mCr3, layout.width), 'p2m_cr3'));
  /** Index of the first of `tables` among all tables of its level that the address space could have. */
  let firstTable = 0;
  for (let level: number = layout.ptLevels; level > 0; level--) {
    const words = await read(tables);
    const span = 2 ** (9 * level + 3);
    const first = Math.floor(start / span);
    const last = Math.floor((start + Math.ceil(size / perFrame) * PAGE_SIZE - 1) / span);
    let frames = new Uint32Array(last - first + 1);
    for (let i = 0; i < frames.length; i++) {
      const mfn = entryFrame(words, first + i - firstTable * 512);
      frames[i] = check(mfn, `entry ${(first + i) % 512} of a table of level ${level}`);
    }
    if (level === 2) {
      // Each of them covers 512 frames of entries.
      const kept = withoutEqualEnd(frames);
      const pages = (first + kept) * 512 - start / PAGE_SIZE;
      if (kept < frames.length) {
        size = Math.min(size, pages * perFrame);
        frames = frames.slice(0, kept);
      }
      if (size < 1) throw badGuest('P2M_SIZE', "the guest's p2m is the same table over and over");
    }
    tables = frames;
    firstTable = first;
  }
  return { size, leaves: tables };
}

/** Returns where a list of the given length begins: the low 48 or 32 bits of its address. */
function listStart(vaddr: bigint, { width }: PvGuestLayout, bytes: number): number {
  const bits = width === 8 ? 48 : 32;
  const start = Number(BigInt.asUintN(bits, vaddr));
  const end = start + bytes - 1;
  const half = 2 ** 47;
  const xen = XEN_RANGE[width];
  const canonical = width === 4 || BigInt.asIntN(64, vaddr) === BigInt.asIntN(48, vaddr);
  const oneHalf = width === 4 || Math.floor(start / half) === Math.floor(end / half);
  const free = end < xen.first || start > xen.last;
  if (!canonical || !oneHalf || !free || end >= 2 ** bits || start % PAGE_SIZE !== 0) {
    throw badGuest('P2M_RANGE', `the guest's p2m cannot be ${bytes} bytes at 0x${vaddr.toString(16)}`);
  }
  return start;
}

/**
 * Returns how many entries precede the identical ones at the end; all of them if the last one differs from
 * the one before.
 */
function withoutEqualEnd(frames: Uint32Array): number {
  const end = frames.length - 1;
  let from = end;
  while (from > 0 && frames[from - 1] === frames[end]) from--;
  return from === end ? frames.length : from;
}

/** Follows three levels of frame lists. */
async function walkTree(
  claim: P2mClaim,
  { width }: PvGuestLayout,
  maxPfn: number,
  check: Check,
  read: ReadFrames,
): Promise<P2mFrames> {
  const perFrame = PAGE_SIZE / width;
  const root = claim.frameListList < BigInt(NO_FRAME) ? Number(claim.frameListList) : NO_FRAME;
  const lists = Math.ceil(maxPfn / perFrame ** 2);
  if (lists > perFrame) throw badGuest('P2M_SIZE', `a tree cannot hold a p2m of ${maxPfn} entries`);
  const top = await read(Uint32Array.of(check(root, 'pfn_to_mfn_frame_list_list')));
  let middle = framesIn(top, lists, width, (mfn, i) => check(mfn, `entry ${i} of the list of lists`));
  // The first of the identical ones at the end may be a real one.
  const kept = Math.min(lists, withoutEqualEnd(middle) + 1);
  middle = middle.slice(0, kept);
  const size = Math.min(maxPfn, kept * perFrame ** 2);
  const leaves = framesIn(await read(middle), Math.ceil(size / perFrame), width, (mfn, i) =>
    check(mfn, `entry ${i} of the frame lists`),
  );
  return { size, leaves };
}

/** Returns the first `count` entries of frame lists. */
function framesIn(
  words: Uint32Array,
  count: number,
  width: 4 | 8,
  check: (mfn: number, index: number) => number,
): Uint32Array {
  const frames = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    const mfn =
      width === 4 ? (words[i] ?? NO_FRAME) : words[2 * i + 1] === 0 ? (words[2 * i] ?? NO_FRAME) : NO_FRAME;
    frames[i] = check(mfn, i);
  }
  return frames;
}

/**
 * Returns the frame in a cr3; NO_FRAME from 2^32 on. 32-bit guests have its bits 32 to 43 in the low 12 bits
 * of the register (xen/arch-x86/xen-x86_32.h, xen_cr3_to_pfn).
 */
export function cr3Frame(cr3: bigint, width: 4 | 8): number {
  const low = Number(BigInt.asUintN(32, cr3));
  const high = Number(cr3 >> 32n);
  if (width === 4) return high === 0 ? ((low >>> 12) | (low << 20)) >>> 0 : NO_FRAME;
  return high < 2 ** 12 ? frameOf(low, high) : NO_FRAME;
}

/** Makes a cr3 from a frame, such as a pfn. */
export function frameCr3(frame: number, width: 4 | 8): bigint {
  return width === 4 ? BigInt(((frame << 12) | (frame >>> 20)) >>> 0) : BigInt(frame) << 12n;
}
