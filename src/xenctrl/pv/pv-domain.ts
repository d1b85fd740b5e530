/** The tables of a PV domain: its p2m and page tables. */
import { type Domid, PAGE_SIZE, toSafeNumber } from '../../core/brand.ts';
import { DomainError } from '../../core/errors.ts';
import type { PvGuestLayout } from '../abi.ts';
import { badGuest, hexFrame } from './errors.ts';
import { FrameTable, NO_FRAME } from './frame-table.ts';
import { findP2m, type P2mFrames, type ReadFrames, readP2mClaim } from './p2m.ts';
import { type BadEntry, PageTables, TABLE_WORDS } from './page-table.ts';
import type { PvCalls, PvVcpu } from './pv-calls.ts';
import type { KeptMapping, KeptTable, TableMaps } from './table-maps.ts';
import { canonicalVcpu } from './vcpu-context.ts';

/** Number of p2m frames that are mapped together; a power of two. */
const FRAMES_PER_PIECE = 1024;
/** How often to look for the p2m if the guest moves it while we look. */
const TRIES = 10;

/** The parts of libxenctrl that are needed. */
export interface PvSources {
  readonly calls: Pick<PvCalls, 'layout' | 'maxMfn' | 'compatM2pMfn' | 'vcpus'>;
  readonly maps: Pick<TableMaps, 'm2p' | 'frames'>;
}

/** What Xen knows about the domain (struct xen_domctl_getdomaininfo). */
export interface PvDomainFacts {
  readonly sharedInfoFrame: bigint;
  readonly maxVcpuId: number;
}

/**
 * A PV domain's mapped tables: its shared info, its p2m, and Xen's m2p. The guest may change the first two at
 * any time, so everything that comes from them is checked at each use.
 */
export class PvDomain implements AsyncDisposable {
  readonly layout: PvGuestLayout;
  /** Number of pfns. */
  readonly p2mSize: number;
  readonly #domid: Domid;
  readonly #facts: PvDomainFacts;
  readonly #sources: PvSources;
  readonly #m2p: KeptTable;
  readonly #sharedInfo: KeptMapping;
  readonly #compatM2pMfn: number;
  readonly #perFrame: number;
  #pieces: KeptMapping[];
  #leaves: Uint32Array;
  /** pfns of the frames that hold the p2m. */
  #leafPfns: Uint32Array;
  #p2m: FrameTable;
  #tables: PageTables;
  #generation: bigint;

  private constructor(
    sources: PvSources,
    domid: Domid,
    facts: PvDomainFacts,
    parts: {
      layout: PvGuestLayout;
      m2p: KeptTable;
      compatM2pMfn: number;
      sharedInfo: KeptMapping;
      found: P2mFrames & { generation: bigint };
      pieces: KeptMapping[];
    },
  ) {
    const { layout, m2p, compatM2pMfn, sharedInfo, found, pieces } = parts;
    this.#sources = sources;
    this.#domid = domid;
    this.#facts = facts;
    this.layout = layout;
    this.#perFrame = PAGE_SIZE / layout.width;
    this.#m2p = m2p;
    this.#compatM2pMfn = compatM2pMfn;
    this.#sharedInfo = sharedInfo;
    this.p2mSize = found.size;
    this.#generation = found.generation;
    this.#leaves = found.leaves;
    this.#pieces = pieces;
    this.#p2m = this.#table();
    this.#tables = this.#translator();
    this.#leafPfns = this.#toPfns(found.leaves);
  }

  /**
   * Maps a domain's tables. For `XenControl.openPv`. @internal
   * @param facts what Xen says about this domid
   * @throws {XenCallError} If a call fails.
   * @throws {DomainError} If the guest's tables make no sense.
   * @throws {EnvironmentError} If this host or this width of guest is not supported.
   */
  static async open(sources: PvSources, domid: Domid, facts: PvDomainFacts): Promise<PvDomain> {
    const { calls, maps } = sources;
    const layout = calls.layout(domid);
    const compatM2pMfn = layout.width === 4 ? await calls.compatM2pMfn() : NO_FRAME;
    const kept: { close(): void }[] = [];
    const keep = <T extends { close(): void }>(mapping: T): T => {
      kept.push(mapping);
      return mapping;
    };
    try {
      const m2p = keep(await maps.m2p(calls.maxMfn()));
      const frame = toSafeNumber(facts.sharedInfoFrame, 'shared info frame');
      const sharedInfo = keep(await maps.frames(domid, Uint32Array.of(frame)));
      const found = await findStable(sources, domid, layout, m2p.table.size, sharedInfo);
      const pieces: KeptMapping[] = [];
      for (let from = 0; from < found.leaves.length; from += FRAMES_PER_PIECE) {
        const part = found.leaves.subarray(from, from + FRAMES_PER_PIECE);
        pieces.push(keep(await maps.frames(domid, part)));
      }
      const parts = { layout, m2p, compatM2pMfn, sharedInfo, found, pieces };
      return new PvDomain(sources, domid, facts, parts);
    } catch (error) {
      for (const mapping of kept) mapping.close();
      throw error;
    }
  }

  /** pfns of the frames that hold the p2m, in order (X86_PV_P2M_FRAMES). */
  get p2mFrames(): Uint32Array {
    return this.#leafPfns;
  }

  /**
   * Returns the current mfn of a pfn; NO_FRAME if the guest has no page there, or gives an impossible mfn.
   */
  mfnOf(pfn: number): number {
    const mfn = this.#p2m.get(pfn);
    return mfn < this.#m2p.table.size ? mfn : NO_FRAME;
  }

  /** Returns whether Xen too has the mfn at this pfn: a page has one pfn, whatever the guest's p2m says. */
  agrees(pfn: number, mfn: number): boolean {
    return this.#m2p.table.get(mfn) === pfn;
  }

  /** Does what `PageTables.normalise` says. */
  normalise(words: Uint32Array, level: number): BadEntry | undefined {
    return this.#tables.normalise(words, level);
  }

  /**
   * Returns whether the guest reports that it has moved its p2m. A guest whose p2m is a tree does not report
   * that.
   */
  moved(): boolean {
    return readP2mClaim(this.sharedInfo(), this.layout).generation !== this.#generation;
  }

  /**
   * Looks for the p2m again.
   * @returns ranges of pfns whose entries have moved: whatever was known about their pages is invalid
   * @throws {DomainError} If the size of the p2m has changed, or it makes no sense.
   */
  async refresh(): Promise<readonly { readonly from: number; readonly to: number }[]> {
    const found = await findStable(
      this.#sources,
      this.#domid,
      this.layout,
      this.#m2p.table.size,
      this.#sharedInfo,
    );
    if (found.size !== this.p2mSize) {
      throw new DomainError(
        'P2M_RESIZED',
        `the guest's address space has changed from ${this.p2mSize} to ${found.size} pages`,
        { domid: this.#domid, hint: 'has memory been added to it? try again' },
      );
    }
    const changed: { from: number; to: number }[] = [];
    const pieces = new Set<number>();
    for (let i = 0; i < found.leaves.length; i++) {
      if (found.leaves[i] === this.#leaves[i]) continue;
      pieces.add(Math.floor(i / FRAMES_PER_PIECE));
      changed.push({ from: i * this.#perFrame, to: Math.min((i + 1) * this.#perFrame, this.p2mSize) });
    }
    this.#generation = found.generation;
    if (changed.length === 0) return changed;
    for (const index of pieces) {
      const from = index * FRAMES_PER_PIECE;
      const part = found.leaves.subarray(from, from + FRAMES_PER_PIECE);
      const mapping = await this.#sources.maps.frames(this.#domid, part);
      this.#pieces[index]?.close();
      this.#pieces[index] = mapping;
    }
    this.#leaves = found.leaves;
    this.#p2m = this.#table();
    this.#tables = this.#translator();
    this.#leafPfns = this.#toPfns(found.leaves);
    return changed;
  }

  /** Returns a copy of the shared info page. */
  sharedInfo(): Uint8Array {
    const { buffer, byteOffset } = this.#sharedInfo.words;
    return new Uint8Array(buffer, byteOffset, PAGE_SIZE).slice();
  }

  /** Returns the online vCPUs of the suspended domain, with pfns instead of mfns. */
  async vcpus(): Promise<PvVcpu[]> {
    const vcpus = await this.#sources.calls.vcpus(this.#domid, this.#facts.maxVcpuId, this.layout);
    const pfnOf = (mfn: number): number => this.#tables.pfnOf(mfn);
    return vcpus.map((vcpu) => ({ ...vcpu, basic: canonicalVcpu(vcpu.basic, this.layout, vcpu.id, pfnOf) }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const mapping of [...this.#pieces, this.#sharedInfo, this.#m2p]) mapping.close();
    this.#pieces = [];
    this.#p2m = new FrameTable([], 1, 0, 8);
    this.#tables = new PageTables(this.#p2m, this.#p2m, this.layout.ptLevels, NO_FRAME);
  }

  #table(): FrameTable {
    const perPiece = FRAMES_PER_PIECE * this.#perFrame;
    const pieces = this.#pieces.map(({ words }) => words);
    return new FrameTable(pieces, perPiece, this.p2mSize, this.layout.width);
  }

  #translator(): PageTables {
    return new PageTables(this.#m2p.table, this.#p2m, this.layout.ptLevels, this.#compatM2pMfn);
  }

  #toPfns(mfns: Uint32Array): Uint32Array {
    return mfns.map((mfn) => {
      const pfn = this.#tables.pfnOf(mfn);
      if (pfn !== NO_FRAME) return pfn;
      throw badGuest(
        'P2M_FRAME',
        `the guest's p2m: mfn ${hexFrame(mfn)} is not in it itself, so it could not be found after a restore`,
        { mfn },
      );
    });
  }
}

/** Finds a p2m that does not move while it is looked for. */
async function findStable(
  { maps }: PvSources,
  domid: Domid,
  layout: PvGuestLayout,
  mfnCount: number,
  sharedInfo: KeptMapping,
): Promise<P2mFrames & { readonly generation: bigint }> {
  const read: ReadFrames = async (mfns) => {
    const words = new Uint32Array(mfns.length * TABLE_WORDS);
    for (let from = 0; from < mfns.length; from += FRAMES_PER_PIECE) {
      const mapping = await maps.frames(domid, mfns.subarray(from, from + FRAMES_PER_PIECE));
      words.set(mapping.words, from * TABLE_WORDS);
      mapping.close();
    }
    return words;
  };
  const claim = () => {
    const { buffer, byteOffset } = sharedInfo.words;
    return readP2mClaim(new Uint8Array(buffer, byteOffset, PAGE_SIZE).slice(), layout);
  };
  let failure: unknown;
  for (let tries = 0; tries < TRIES; tries++) {
    const before = claim();
    const found = await findP2m(before, layout, mfnCount, read).catch((error: unknown) => {
      failure = error;
      return undefined;
    });
    if (claim().generation !== before.generation) continue;
    if (found === undefined) throw failure;
    return { ...found, generation: before.generation };
  }
  throw badGuest('P2M_MOVES', `the guest has moved its p2m ${TRIES} times while it was looked for`);
}
