/** Reads the memory and state of an HVM or PVH guest. */
import type { Bitmap } from '../../core/bitmap.ts';
import { type Domid, PAGE_SIZE } from '../../core/brand.ts';
import { DomainError } from '../../core/errors.ts';
import { type LibxcStateRecord, PAGE_TYPE } from '../../savefmt/index.ts';
import type { Guest, LogMarks, PackedPages } from '../../snapshot/ports.ts';
import { HVM_PARAM } from '../../xenctrl/index.ts';
import { cpuPolicyRecords, tscRecord, type Xen } from './guest-records.ts';

/** Number of pages in a batch, 4 MiB: larger batches were not faster, smaller ones cost more calls. */
const MAX_BATCH = 1024;

/**
 * Maximum size of a memory map: 4 TiB. A guest can have Xen map a grant or a device at any place, and dom0 needs
 * memory, and time while the guest is stopped, for each pfn below it.
 */
const MAX_P2M_SIZE = 2 ** 30;
/**
 * Maximum growth of the memory map, in pages, that is examined while the guest is stopped: 4 GiB, which takes
 * some milliseconds.
 */
const MAX_GROWTH = 2 ** 20;
/**
 * The same if the new pages are saved too: 64 GiB. A guest can have a frame for a device or a grant anywhere.
 */
const MAX_TAKEN = 2 ** 24;

/**
 * The parameters that libxc saves, in its order (tools/libs/guest/xg_sr_save_x86_hvm.c); the same from 4.17 to
 * 4.22.
 */
const SAVED_PARAMS: readonly number[] = [
  HVM_PARAM.HVM_PARAM_STORE_PFN,
  HVM_PARAM.HVM_PARAM_IOREQ_PFN,
  HVM_PARAM.HVM_PARAM_BUFIOREQ_PFN,
  HVM_PARAM.HVM_PARAM_PAGING_RING_PFN,
  HVM_PARAM.HVM_PARAM_MONITOR_RING_PFN,
  HVM_PARAM.HVM_PARAM_SHARING_RING_PFN,
  HVM_PARAM.HVM_PARAM_VM86_TSS_SIZED,
  HVM_PARAM.HVM_PARAM_CONSOLE_PFN,
  HVM_PARAM.HVM_PARAM_ACPI_IOPORTS_LOCATION,
  HVM_PARAM.HVM_PARAM_VIRIDIAN,
  HVM_PARAM.HVM_PARAM_IDENT_PT,
  HVM_PARAM.HVM_PARAM_VM_GENERATION_ID_ADDR,
  HVM_PARAM.HVM_PARAM_IOREQ_SERVER_PFN,
  HVM_PARAM.HVM_PARAM_NR_IOREQ_SERVER_PAGES,
  HVM_PARAM.HVM_PARAM_X87_FIP_WIDTH,
  HVM_PARAM.HVM_PARAM_MCA_CAP,
];

/**
 * Where libxc puts pages for rings that only introspection, paging and sharing tools use (tools/libs/guest/xg_dom_x86.c:
 * alloc_magic_pages_hvm). They are memory of the guest, in a place that it keeps its hands off.
 */
const RING_PARAMS: readonly number[] = [
  HVM_PARAM.HVM_PARAM_PAGING_RING_PFN,
  HVM_PARAM.HVM_PARAM_MONITOR_RING_PFN,
  HVM_PARAM.HVM_PARAM_SHARING_RING_PFN,
];

/** An HVM or PVH guest on real Xen. Its pfns are gfns, so nothing is translated. */
export class HvmGuest implements Guest {
  readonly streamType = 'hvm';
  readonly maxBatch = MAX_BATCH;
  readonly #xen: Xen;
  readonly #domid: Domid;
  #p2mSize: number;

  private constructor(xen: Xen, domid: Domid, p2mSize: number) {
    this.#xen = xen;
    this.#domid = domid;
    this.#p2mSize = p2mSize;
  }

  get p2mSize(): number {
    return this.#p2mSize;
  }

  /**
   * Opens a guest.
   * @throws {XenCallError} If a call fails.
   * @throws {DomainError} If its memory map is larger than that of any real guest: P2M_SIZE.
   */
  static async open(xen: Xen, domid: Domid): Promise<HvmGuest> {
    const size = await xen.nrGpfns(domid);
    if (size > MAX_P2M_SIZE) {
      throw new DomainError('P2M_SIZE', `the guest's memory map ends at pfn ${size}`, {
        domid,
        data: { most: MAX_P2M_SIZE },
        hint: 'dom0 would need memory for each of these pfns: a driver in the guest has mapped a page there',
      });
    }
    return new HvmGuest(xen, domid, size);
  }

  pageTypes(pfns: Uint32Array): Promise<Uint8Array> {
    return this.#xen.pageTypes(this.#domid, pfns);
  }

  pageTypesFrom(first: number, count: number): Promise<Uint8Array> {
    return this.#xen.pageTypesFrom(this.#domid, first, count);
  }

  /** @throws {DomainError} DOMAIN_GONE if the domain no longer exists; XenCallError */
  async pageCount(): Promise<number> {
    const info = await this.#xen.domainInfo(this.#domid);
    if (info === undefined) {
      throw new DomainError('DOMAIN_GONE', 'the domain no longer exists', { domid: this.#domid });
    }
    return info.memoryBytes / PAGE_SIZE;
  }

  packPages(
    fd: number,
    pfns: Uint32Array,
    position: number,
    makeHead: (kinds: Uint8Array) => Uint8Array,
    options?: Parameters<Guest['packPages']>[4],
  ): Promise<PackedPages> {
    return this.#xen.packPages(this.#domid, pfns, fd, position, makeHead, options);
  }

  readPages(pfns: Uint32Array, into: Uint8Array): Promise<Uint8Array> {
    return this.#xen.readPages(this.#domid, pfns, into);
  }

  async startDirtyLog(): Promise<void> {
    await this.#xen.startDirtyLog(this.#domid, this.p2mSize);
  }

  async takeDirty(pages: Bitmap, { final }: { final: boolean }): Promise<boolean> {
    const { bitmap, whole } = await this.#xen.takeDirty(this.#domid, this.p2mSize, final);
    pages.or(bitmap);
    return whole;
  }

  async stopDirtyLog(): Promise<void> {
    await this.#xen.stopDirtyLog(this.#domid);
  }

  readonly logMarks: LogMarks = {
    set: async () => {
      const pages = await this.#rings();
      for (const pfn of pages) await this.#xen.markDirty(this.#domid, pfn);
      return pages;
    },
    peek: async (pages) => pages.or(await this.#xen.peekDirty(this.#domid, this.p2mSize)),
  };

  /** The pages for rings that there are. */
  async #rings(): Promise<readonly number[]> {
    const values = await Promise.all(RING_PARAMS.map((index) => this.#xen.hvmParam(this.#domid, index)));
    const pfns = values.map(Number).filter((pfn) => pfn > 0 && pfn < this.p2mSize);
    const types = await this.pageTypes(Uint32Array.from(pfns));
    return pfns.filter((_, at) => types[at] === PAGE_TYPE.notab);
  }

  /**
   * Checks that the memory map is still the one that the file was laid out for. Memory above that size, for
   * example added by a balloon driver, would be missing from the file without an error. Frames of grants and
   * devices are not part of a file, so a map that has grown only by those is fine. If no page has been read
   * yet, the new map is used.
   * @throws {DomainError} P2M_RESIZED if the map has grown by memory.
   */
  async settle({ mayGrow }: { mayGrow: boolean }): Promise<void> {
    const size = await this.#xen.nrGpfns(this.#domid);
    const grown = size - this.p2mSize;
    if (mayGrow && grown > 0 && grown <= MAX_TAKEN) {
      this.#p2mSize = size;
      return;
    }
    if (grown <= 0 || (grown <= MAX_GROWTH && !(await this.#hasMemory(this.p2mSize, grown)))) return;
    throw new DomainError(
      'P2M_RESIZED',
      `the guest's memory map has grown from ${this.p2mSize} to ${size} pages since the snapshot began`,
      { domid: this.#domid, hint: 'try again' },
    );
  }

  async #hasMemory(first: number, count: number): Promise<boolean> {
    const types = await this.#xen.pageTypesFrom(this.#domid, first, count);
    return types.some((type) => type !== PAGE_TYPE.xtab);
  }

  staticRecords(): Promise<LibxcStateRecord[]> {
    return cpuPolicyRecords(this.#xen, this.#domid);
  }

  async startRecords(): Promise<LibxcStateRecord[]> {
    return [];
  }

  async stateRecords(): Promise<LibxcStateRecord[]> {
    const records: LibxcStateRecord[] = [
      await tscRecord(this.#xen, this.#domid),
      { name: 'HVM_CONTEXT', data: await this.#xen.hvmContext(this.#domid) },
    ];
    const all = await Promise.all(
      SAVED_PARAMS.map(async (index) => ({
        index: BigInt(index),
        value: await this.#xen.hvmParam(this.#domid, index),
      })),
    );
    const params = all.filter(({ value }) => value !== 0n);
    if (params.length > 0) records.push({ name: 'HVM_PARAMS', reserved: 0, params });
    return records;
  }

  /** Does nothing, since nothing stays open between calls. */
  async [Symbol.asyncDispose](): Promise<void> {}
}
