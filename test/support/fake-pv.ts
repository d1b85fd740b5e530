/** Shows a PvWorld as libxenctrl would: mapped tables, calls, and how much is mapped. */

import { badGuest } from '../../src/xenctrl/pv/errors.ts';
import type { P2mClaim } from '../../src/xenctrl/pv/p2m.ts';
import type { PvVcpu } from '../../src/xenctrl/pv/pv-calls.ts';
import type { PvDomainFacts, PvSources } from '../../src/xenctrl/pv/pv-domain.ts';
import { PvWorld, worldCr3 } from './pv-world.ts';

const SHARED_INFO_MFN = 9;
const VADDR = { 8: 0xc900_0000_0000, 4: 0xc000_0000 } as const;

export class FakePv {
  static readonly CR3_PFN = 40;
  static readonly COMPAT = 0x321;
  readonly world: PvWorld;
  readonly facts: PvDomainFacts = { sharedInfoFrame: BigInt(SHARED_INFO_MFN), maxVcpuId: 0 };
  /** mfns of the frames of the p2m. */
  readonly leaves: number[];
  claim: P2mClaim;
  /** Current mappings, and all that ever existed. */
  mapped = 0;
  maps = 0;
  compatAsked = 0;
  onMap: () => void = () => {};
  readonly #kind: 'list' | 'tree';
  readonly #root: number;

  constructor(width: 4 | 8, pfns: number, kind: 'list' | 'tree') {
    this.world = new PvWorld(width, pfns);
    this.#kind = kind;
    this.leaves = this.world.makeLeaves();
    if (kind === 'list') {
      this.#root = this.world.mapAt(VADDR[width], this.leaves);
      const vaddr = BigInt(VADDR[width]) + (width === 8 ? 0xffff_0000_0000_0000n : 0n);
      const p2mCr3 = worldCr3(this.#root, width);
      this.claim = this.world.claim({ p2mCr3, p2mVaddr: vaddr, generation: 4n });
    } else {
      this.#root = this.world.makeTree(this.leaves);
      this.claim = this.world.claim({ frameListList: BigInt(this.#root) });
    }
    this.world.publish(this.claim);
  }

  publish(changes: Partial<P2mClaim>): void {
    this.claim = { ...this.claim, ...changes };
    this.world.publish(this.claim);
  }

  /** Returns the words of a pfn's entry in the p2m. */
  entryOf(pfn: number): Uint32Array {
    const { perFrame, layout } = this.world;
    const words = layout.width / 4;
    const page = this.world.page(this.leaves[Math.floor(pfn / perFrame)] ?? 0);
    return page.subarray((pfn % perFrame) * words, (pfn % perFrame) * words + words);
  }

  /** Replaces a frame of the p2m with another. */
  setLeaf(index: number, mfn: number): void {
    const { world } = this;
    if (this.#kind === 'list') {
      let table = this.#root;
      for (let level: number = world.layout.ptLevels; level > 1; level--) {
        const at = Math.floor(VADDR[world.layout.width] / 2 ** (9 * level + 3)) % 512;
        table = (world.page(table)[2 * at] ?? 0) >>> 12;
      }
      world.setEntry(table, index, mfn);
      this.publish({ generation: this.claim.generation + 2n });
    } else {
      const list = world.page(this.#root)[0] ?? 0;
      world.page(list).set([mfn, 0], 2 * index);
    }
    this.leaves[index] = mfn;
  }

  /** Moves a part of the guest's p2m. */
  moveLeaf(index: number): void {
    const old = this.leaves[index] ?? 0;
    const fresh = this.world.takePage();
    this.world.page(fresh).set(this.world.page(old));
    this.setLeaf(index, fresh);
  }

  readonly sources: PvSources = {
    calls: {
      layout: () => this.world.layout,
      maxMfn: () => this.world.mfnCount - 1,
      compatM2pMfn: async () => {
        this.compatAsked++;
        return FakePv.COMPAT;
      },
      vcpus: async () => [this.#vcpu()],
    },
    maps: {
      m2p: async () => {
        this.mapped++;
        return { table: this.world.m2p, close: () => this.mapped-- };
      },
      frames: async (_domid, mfns) => {
        this.maps++;
        this.onMap();
        const bad = mfns.find((mfn) => mfn !== SHARED_INFO_MFN && !this.world.owns(mfn));
        if (bad !== undefined) throw badGuest('P2M_FRAME', `mfn ${bad}`);
        this.mapped++;
        return { words: this.#words(mfns), close: () => this.mapped-- };
      },
    },
  };

  /** A single page is a view, several pages are a copy. */
  #words(mfns: Uint32Array): Uint32Array {
    const [first = 0] = mfns;
    if (first === SHARED_INFO_MFN) return new Uint32Array(this.world.sharedInfo.buffer);
    if (mfns.length === 1) return this.world.page(first);
    return this.#joined(mfns);
  }

  /** Maps pages side by side: from now on they live there. */
  #joined(mfns: Uint32Array): Uint32Array {
    const words = new Uint32Array(mfns.length * 1024);
    for (const [i, mfn] of mfns.entries()) {
      const page = words.subarray(i * 1024, (i + 1) * 1024);
      page.set(this.world.page(mfn));
      this.world.pages.set(mfn, page);
    }
    return words;
  }

  #vcpu(): PvVcpu {
    const { vcpu_guest_context: fields } = this.world.layout;
    const basic = new Uint8Array(fields.size);
    const view = new DataView(basic.buffer);
    view.setBigUint64(fields['user_regs.edx'], BigInt(this.world.mfn(1)), true);
    view.setBigUint64(fields.ctrlreg + 24, BigInt(this.world.mfn(FakePv.CR3_PFN)) << 12n, true);
    return { id: 0, basic, extended: Uint8Array.of(1), xsave: undefined, msrs: undefined };
  }
}
