/** Memory and state of an HVM or PVH guest. */
import type { Bitmap } from '../../core/bitmap.ts';
import type { Domid } from '../../core/brand.ts';
import { DomainError } from '../../core/errors.ts';
import { type LibxcStateRecord, PAGE_TYPE } from '../../savefmt/index.ts';
import type { Guest } from '../../snapshot/ports.ts';
import { HVM_PARAM } from '../../xenctrl/index.ts';
import { cpuPolicyRecords, tscRecord, type Xen } from './guest-records.ts';

/** Pages of a batch, 4 MiB: larger ones were no faster, smaller ones cost more calls. */
const MAX_BATCH = 1024;

/** Pages, 4 GiB: growth that is looked through while the guest is stopped, some milliseconds. */
const MOST_GROWTH = 2 ** 20;
/** The same where the new pages are saved, too: 64 GiB. A guest can have a frame at any place for a device or a grant. */
const MOST_TAKEN = 2 ** 24;

/** The params that libxc saves, in its order (tools/libs/guest/xg_sr_save_x86_hvm.c); the same from 4.17 to 4.22. */
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

/** An HVM or PVH guest on real Xen: its pfns are gfns, nothing has to be translated. */
export class XenGuest implements Guest {
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

  /** @throws XenCallError */
  static async open(xen: Xen, domid: Domid): Promise<XenGuest> {
    return new XenGuest(xen, domid, await xen.nrGpfns(domid));
  }

  pageTypes(pfns: Uint32Array): Promise<Uint8Array> {
    return this.#xen.pageTypes(this.#domid, pfns);
  }

  pageTypesFrom(first: number, count: number): Promise<Uint8Array> {
    return this.#xen.pageTypesFrom(this.#domid, first, count);
  }

  packPages(
    fd: number,
    pfns: Uint32Array,
    position: number,
    makeHead: (kinds: Uint8Array) => Uint8Array,
  ): Promise<Uint8Array> {
    return this.#xen.packPages(this.#domid, pfns, fd, position, makeHead);
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

  /**
   * Its pfns are gfns: where they are is Xen's business. Memory above the size that the file was laid out for, added by
   * a balloon driver for example, would be missing from it without an error. Frames of grants and devices are not part
   * of a file, so a map that has grown by those alone is all right. Where no page has been read yet, the map is taken as it
   * is now.
   * @throws DomainError P2M_RESIZED
   */
  async settle({ mayGrow }: { mayGrow: boolean }): Promise<void> {
    const size = await this.#xen.nrGpfns(this.#domid);
    const grown = size - this.p2mSize;
    if (mayGrow && grown > 0 && grown <= MOST_TAKEN) {
      this.#p2mSize = size;
      return;
    }
    if (grown <= 0 || (grown <= MOST_GROWTH && !(await this.#hasMemory(this.p2mSize, grown)))) return;
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

  /** Nothing stays open between calls. */
  async [Symbol.asyncDispose](): Promise<void> {}
}
