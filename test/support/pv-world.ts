/** A simulated host with one PV guest: pages, m2p, p2m, page tables, as words of Xen and the guest. */
import { DomainError } from '../../src/core/errors.ts';
import { PV_GUESTS, type PvGuestLayout } from '../../src/xenctrl/abi.ts';
import { FrameTable } from '../../src/xenctrl/pv/frame-table.ts';
import type { P2mClaim, ReadFrames } from '../../src/xenctrl/pv/p2m.ts';

const WORDS = 1024;
/** The guest's first mfn; lower ones are Xen's and other guests'. */
const FIRST_MFN = 0x1000;
const ALL_ONES = 0xffffffff;

export function pvLayout(width: 4 | 8): PvGuestLayout {
  const layout = PV_GUESTS.find((each) => each.width === width);
  if (layout === undefined) throw new RangeError(`width ${width}`);
  return layout;
}

/** Bits of an entry besides its frame: present, writable, accessed, no-execute. */
export const FLAGS = { low: 0x23, high: 0x80000000 } as const;

/**
 * The guest has pfn p at an mfn that is not p plus a constant. Its own pages come first; those with its
 * tables are taken from the top.
 */
export class PvWorld {
  readonly layout: PvGuestLayout;
  readonly pfnCount: number;
  readonly mfnCount: number;
  /** Pages by mfn. Pages of zeros that nobody has written to are absent. */
  readonly pages = new Map<number, Uint32Array>();
  readonly m2p: FrameTable;
  readonly sharedInfo = new Uint8Array(4096);
  /** mfns that were read, in order. */
  readonly reads: number[] = [];
  readonly #m2pWords: Uint32Array;
  readonly #mfns: Uint32Array;
  #top: number;

  constructor(width: 4 | 8, pfnCount: number) {
    this.layout = pvLayout(width);
    this.pfnCount = pfnCount;
    this.mfnCount = FIRST_MFN + pfnCount + 64;
    this.#m2pWords = new Uint32Array(2 * this.mfnCount).fill(ALL_ONES);
    // Neighbours are swapped, so that no order can be relied on.
    this.#mfns = Uint32Array.from({ length: pfnCount }, (_, pfn) => FIRST_MFN + (pfn ^ 1));
    for (const [pfn, mfn] of this.#mfns.entries()) this.setM2p(mfn, pfn);
    this.m2p = new FrameTable([this.#m2pWords], 2 ** 31, this.mfnCount, 8);
    this.#top = pfnCount;
  }

  get perFrame(): number {
    return 4096 / this.layout.width;
  }

  mfn(pfn: number): number {
    const mfn = this.#mfns[pfn];
    if (mfn === undefined) throw new RangeError(`pfn ${pfn}`);
    return mfn;
  }

  setM2p(mfn: number, pfn: number): void {
    this.#m2pWords.set([pfn, 0], 2 * mfn);
  }

  page(mfn: number): Uint32Array {
    let page = this.pages.get(mfn);
    if (page === undefined) {
      page = new Uint32Array(WORDS);
      this.pages.set(mfn, page);
    }
    return page;
  }

  /** Takes a page of the guest for a table. */
  takePage(): number {
    this.#top--;
    return this.mfn(this.#top);
  }

  setEntry(
    table: number,
    index: number,
    frame: number,
    low: number = FLAGS.low,
    high: number = FLAGS.high,
  ): void {
    this.page(table).set([(frame << 12) | low, (frame >>> 20) | high], 2 * index);
  }

  /** Returns the pages with the p2m's entries, in order. */
  makeLeaves(count = Math.ceil(this.pfnCount / this.perFrame)): number[] {
    const leaves = Array.from({ length: count }, () => this.takePage());
    for (const [i, leaf] of leaves.entries()) {
      const page = this.page(leaf).fill(ALL_ONES);
      for (let at = 0; at < this.perFrame; at++) {
        const pfn = i * this.perFrame + at;
        if (pfn >= this.pfnCount) break;
        page.set(
          this.layout.width === 8 ? [this.mfn(pfn), 0] : [this.mfn(pfn)],
          (at * this.layout.width) / 4,
        );
      }
    }
    return leaves;
  }

  /** Maps frames in the guest's address space, one page after the other, and returns the mfn of the root. */
  mapAt(vaddr: number, frames: readonly number[], root: number = this.takePage()): number {
    const tables = new Map<string, number>();
    for (const [i, frame] of frames.entries()) {
      const address = vaddr + i * 4096;
      let table = root;
      for (let level: number = this.layout.ptLevels; level > 1; level--) {
        const key = `${level} ${Math.floor(address / 2 ** (9 * level + 3))}`;
        let next = tables.get(key);
        if (next === undefined) {
          next = this.takePage();
          tables.set(key, next);
          this.setEntry(table, Math.floor(address / 2 ** (9 * level + 3)) % 512, next);
        }
        table = next;
      }
      this.setEntry(table, Math.floor(address / 4096) % 512, frame);
    }
    return root;
  }

  /** Builds the tree of older kernels over leaves, and returns the mfn of the list of lists. */
  makeTree(leaves: readonly number[]): number {
    const set = (list: number, index: number, frame: number): void => {
      const { width } = this.layout;
      this.page(list).set(width === 8 ? [frame, 0] : [frame], (index * width) / 4);
    };
    const root = this.takePage();
    for (let i = 0; i < leaves.length; i += this.perFrame) {
      const list = this.takePage();
      set(root, i / this.perFrame, list);
      for (const [at, leaf] of leaves.slice(i, i + this.perFrame).entries()) set(list, at, leaf);
    }
    return root;
  }

  /** What the shared info says. */
  claim(changes: Partial<P2mClaim>): P2mClaim {
    return {
      maxPfn: BigInt(this.pfnCount),
      p2mCr3: 0n,
      p2mVaddr: 0n,
      frameListList: 0n,
      generation: 0n,
      ...changes,
    };
  }

  /** Writes a claim to the shared info page. */
  publish(claim: P2mClaim): void {
    const view = new DataView(this.sharedInfo.buffer);
    const { shared_info: fields, width } = this.layout;
    const set = (at: number, value: bigint): void =>
      width === 8 ? view.setBigUint64(at, value, true) : view.setUint32(at, Number(value), true);
    set(fields['arch.max_pfn'], claim.maxPfn);
    set(fields['arch.p2m_cr3'], claim.p2mCr3);
    set(fields['arch.p2m_vaddr'], claim.p2mVaddr);
    set(fields['arch.pfn_to_mfn_frame_list_list'], claim.frameListList);
    set(fields['arch.p2m_generation'], claim.generation);
  }

  /** Builds the p2m over leaves. */
  p2m(leaves: readonly number[], size: number = this.pfnCount): FrameTable {
    return new FrameTable(
      leaves.map((leaf) => this.page(leaf)),
      this.perFrame,
      size,
      this.layout.width,
    );
  }

  /** Copies frames. Only the guest's own can be read, as with Xen. */
  readonly read: ReadFrames = async (mfns) => {
    const words = new Uint32Array(mfns.length * WORDS);
    for (const [i, mfn] of mfns.entries()) {
      this.reads.push(mfn);
      if (!this.owns(mfn)) throw new DomainError('NOT_THE_GUESTS', `mfn ${mfn}`);
      words.set(this.page(mfn), i * WORDS);
    }
    return words;
  };

  owns(mfn: number): boolean {
    return mfn >= FIRST_MFN && mfn < FIRST_MFN + this.pfnCount;
  }
}

/** Returns a cr3 for a root, as the guest's registers have it. */
export function worldCr3(mfn: number, width: 4 | 8): bigint {
  return width === 8 ? BigInt(mfn) << 12n : BigInt(((mfn << 12) | (mfn >>> 20)) >>> 0);
}
