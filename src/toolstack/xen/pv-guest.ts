/** Reads the memory and state of a PV guest. */
import { Bitmap } from '../../core/bitmap.ts';
import type { Domid } from '../../core/brand.ts';
import { DomainError } from '../../core/errors.ts';
import { type LibxcStateRecord, PAGE_TYPE } from '../../savefmt/index.ts';
import type { Guest, PackedPages } from '../../snapshot/ports.ts';
import {
  type BadEntry,
  type DomainInfo,
  NO_FRAME,
  type PageRewriter,
  type PvDomain,
  SHUTDOWN,
} from '../../xenctrl/index.ts';
import { cpuPolicyRecords, tscRecord, type Xen } from './guest-records.ts';

/** Number of pages in a batch, as for other guests. */
const MAX_BATCH = 1024;
/** Bits of a page type that give the level of a page table; the fourth bit means pinned. */
const LEVEL_MASK = 0x7;

/**
 * A PV guest on real Xen. Its own p2m, which it may change while it runs, translates its pfns. Page tables go
 * to the file with pfns instead of mfns (tools/libs/guest/xg_sr_save_x86_pv.c).
 */
export class PvGuest implements Guest {
  readonly streamType = 'pv';
  readonly p2mSize: number;
  readonly maxBatch = MAX_BATCH;
  readonly #xen: Xen;
  readonly #domid: Domid;
  readonly #domain: PvDomain;
  /** Types of the page tables that were last seen. */
  readonly #tables = new Map<number, number>();
  /** pfns that had no page when Xen was asked: Xen's log does not report when they get one. */
  readonly #absent: Bitmap;
  /** pfns about which nothing is known, since the p2m was moved. */
  readonly #moved: Bitmap;

  private constructor(xen: Xen, domid: Domid, domain: PvDomain) {
    this.#xen = xen;
    this.#domid = domid;
    this.#domain = domain;
    this.p2mSize = domain.p2mSize;
    this.#absent = new Bitmap(domain.p2mSize);
    this.#moved = new Bitmap(domain.p2mSize);
  }

  /**
   * Opens a guest.
   * @param info what Xen says about this domid
   * @throws {XenCallError} If a call fails.
   * @throws {DomainError} If the guest's tables make no sense.
   */
  static async open(xen: Xen, domid: Domid, info: DomainInfo): Promise<PvGuest> {
    return new PvGuest(xen, domid, await xen.openPv(domid, info));
  }

  async pageTypes(pfns: Uint32Array): Promise<Uint8Array> {
    const types = new Uint8Array(pfns.length).fill(PAGE_TYPE.xtab);
    const mfns = this.#mfnsOf(pfns);
    const there = mfns.filter((mfn) => mfn !== NO_FRAME);
    const found = there.length === 0 ? there : await this.#xen.pageTypes(this.#domid, there);
    for (let i = 0, at = 0; i < pfns.length; i++) {
      const pfn = pfns[i] ?? 0;
      const mfn = mfns[i] ?? NO_FRAME;
      let type: number = mfn === NO_FRAME ? PAGE_TYPE.xtab : (found[at++] ?? PAGE_TYPE.xtab);
      if (type !== PAGE_TYPE.xtab && !this.#domain.agrees(pfn, mfn)) {
        // While the guest runs, this may be a change in progress: the page is looked at again, like one that
        // does not exist.
        if (await this.#suspended()) throw disagreement(this.#domid, pfn, mfn);
        type = PAGE_TYPE.xtab;
      }
      types[i] = type;
      if (type === PAGE_TYPE.xtab) this.#absent.set(pfn);
      else this.#absent.clear(pfn);
      if (isTable(type)) this.#tables.set(pfn, type);
      else this.#tables.delete(pfn);
    }
    return types;
  }

  pageTypesFrom(first: number, count: number): Promise<Uint8Array> {
    return this.pageTypes(Uint32Array.from({ length: count }, (_, i) => first + i));
  }

  packPages(
    fd: number,
    pfns: Uint32Array,
    position: number,
    makeHead: (kinds: Uint8Array) => Uint8Array,
    options?: Parameters<Guest['packPages']>[4],
  ): Promise<PackedPages> {
    return this.#withRewriter(pfns, (mfns, rewriter) =>
      this.#xen.packPages(this.#domid, mfns, fd, position, makeHead, { ...options, rewriter }),
    );
  }

  readPages(pfns: Uint32Array, into: Uint8Array): Promise<Uint8Array> {
    return this.#withRewriter(pfns, (mfns, rewriter) =>
      this.#xen.readPages(this.#domid, mfns, into, rewriter),
    );
  }

  async startDirtyLog(): Promise<void> {
    await this.#xen.startDirtyLog(this.#domid, this.p2mSize);
  }

  async takeDirty(pages: Bitmap, { final }: { final: boolean }): Promise<boolean> {
    const { bitmap, whole } = await this.#xen.takeDirty(this.#domid, this.p2mSize, final);
    pages.or(bitmap);
    if (!final && this.#domain.moved()) await this.#refresh();
    pages.or(this.#moved.bytes);
    this.#moved.clearAll();
    for (const pfn of this.#absent.indices()) {
      if (this.#domain.mfnOf(pfn) !== NO_FRAME) pages.set(pfn);
    }
    return whole;
  }

  async stopDirtyLog(): Promise<void> {
    await this.#xen.stopDirtyLog(this.#domid);
  }

  /** Looks for the p2m again, whatever the guest says: a tree may have been moved without notice. */
  async settle(): Promise<void> {
    await this.#refresh();
  }

  async staticRecords(): Promise<LibxcStateRecord[]> {
    const { width, ptLevels } = this.#domain.layout;
    return [
      { name: 'X86_PV_INFO', guestWidth: width, ptLevels, reserved1: 0, reserved2: 0 },
      ...(await cpuPolicyRecords(this.#xen, this.#domid)),
    ];
  }

  async startRecords(): Promise<LibxcStateRecord[]> {
    const frames = BigUint64Array.from(this.#domain.p2mFrames, BigInt);
    return [{ name: 'X86_PV_P2M_FRAMES', startPfn: 0, endPfn: this.p2mSize - 1, frames }];
  }

  async stateRecords(): Promise<LibxcStateRecord[]> {
    const records: LibxcStateRecord[] = [
      await tscRecord(this.#xen, this.#domid),
      { name: 'SHARED_INFO', data: this.#domain.sharedInfo() },
    ];
    for (const { id, basic, extended, xsave, msrs } of await this.#domain.vcpus()) {
      const header = { vcpuId: id, reserved: 0 };
      records.push({ name: 'X86_PV_VCPU_BASIC', ...header, context: basic });
      if (extended !== undefined) {
        records.push({ name: 'X86_PV_VCPU_EXTENDED', ...header, context: extended });
      }
      if (xsave !== undefined) records.push({ name: 'X86_PV_VCPU_XSAVE', ...header, context: xsave });
      if (msrs !== undefined) records.push({ name: 'X86_PV_VCPU_MSRS', ...header, context: msrs });
    }
    return records;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#domain[Symbol.asyncDispose]();
  }

  #mfnsOf(pfns: Uint32Array): Uint32Array {
    return pfns.map((pfn) => this.#domain.mfnOf(pfn));
  }

  async #refresh(): Promise<void> {
    for (const { from, to } of await this.#domain.refresh()) {
      for (let pfn = from; pfn < to; pfn++) this.#moved.set(pfn);
    }
  }

  /**
   * Copies pages with their tables normalised. A table of a running guest that makes no sense is being
   * changed, and counts as unmapped; in a suspended guest it is an error.
   */
  async #withRewriter<T>(
    pfns: Uint32Array,
    copy: (mfns: Uint32Array, rewriter: PageRewriter) => Promise<T>,
  ): Promise<T> {
    const pages: number[] = [];
    for (let i = 0; i < pfns.length; i++) if (this.#tables.has(pfns[i] ?? NO_FRAME)) pages.push(i);
    // Asked before: what was read while the guest still ran proves nothing.
    const stopped = pages.length > 0 && (await this.#suspended());
    let bad: (BadEntry & { pfn: number }) | undefined;
    const copied = await copy(this.#mfnsOf(pfns), {
      pages,
      rewrite: (words, index) => {
        const pfn = pfns[index] ?? 0;
        const found = this.#domain.normalise(words, (this.#tables.get(pfn) ?? 0) & LEVEL_MASK);
        if (found !== undefined) bad ??= { ...found, pfn };
        return found === undefined;
      },
    });
    if (bad !== undefined && stopped) throw badTableError(this.#domid, bad);
    return copied;
  }

  async #suspended(): Promise<boolean> {
    return (await this.#xen.domainInfo(this.#domid))?.shutdownReason === SHUTDOWN.SHUTDOWN_suspend;
  }
}

function isTable(type: number): boolean {
  const level = type & LEVEL_MASK;
  return level >= 1 && level <= 4 && type < PAGE_TYPE.broken;
}

/**
 * Makes the error for a page that Xen has elsewhere. If saved anyway, one page could fill the file over and
 * over.
 */
function disagreement(domid: Domid, pfn: number, mfn: number): DomainError {
  return new DomainError(
    'P2M_DISAGREES',
    `the guest says that its page ${pfn} is at mfn ${mfn}, but Xen has another page there`,
    { domid, data: { pfn, mfn }, hint: "the guest's kernel wrote this itself: reboot the guest" },
  );
}

function badTableError(
  domid: Domid,
  { pfn, level, index, reason, mfn }: BadEntry & { pfn: number },
): DomainError {
  return new DomainError(
    'PAGE_TABLE',
    `entry ${index} of the page table of level ${level} at page ${pfn} cannot be saved: ${reason}`,
    {
      domid,
      data: { pfn, level, index, mfn },
      hint: 'such entries come from devices passed through to the guest and from memory that it shares with others',
    },
  );
}
