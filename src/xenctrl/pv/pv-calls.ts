/** Hypercalls about a PV domain and its vCPUs, except for its memory. */
import { type Domid, toSafeNumber } from '../../core/brand.ts';
import { EnvironmentError } from '../../core/errors.ts';
import { type Abi, DOMCTL, PV_GUESTS, type PvGuestLayout, XENMEM } from '../abi.ts';
import type { XENCTRL, XENCTRL_PRIVATE } from '../declarations.ts';
import { withHypercallBuffer } from '../hypercall-buffer.ts';
import type { NativeArgument, NativeFunction } from '../native.ts';
import { NO_FRAME } from './frame-table.ts';

/** Maximum number of bytes of state for one vCPU: far above that of any processor. */
const MAX_STATE = 1024 * 1024;

export interface PvCallsParts {
  readonly abi: Abi;
  readonly ctrl: Readonly<
    Record<keyof (typeof XENCTRL)['functions'] | keyof (typeof XENCTRL_PRIVATE)['functions'], NativeFunction>
  >;
  /** Returns the open xc_interface. */
  readonly xch: () => bigint;
  /** Calls a function with the interface as its first argument, in this thread. Throws XenCallError. */
  readonly call: (fn: NativeFunction, ...args: NativeArgument[]) => number;
  /** Copies memory that the C library has returned. */
  readonly copyOut: (address: number | bigint, length: number) => Uint8Array;
}

/**
 * A vCPU's state. Each part is what the record of its name has after the vCPU's number; absent if Xen has
 * none.
 */
export interface PvVcpu {
  readonly id: number;
  /** struct vcpu_guest_context, with mfns. */
  readonly basic: Uint8Array;
  readonly extended: Uint8Array | undefined;
  readonly xsave: Uint8Array | undefined;
  readonly msrs: Uint8Array | undefined;
}

/**
 * Makes the calls.
 * @throws {XenCallError} If a call fails; by each method.
 */
export class PvCalls {
  readonly #parts: PvCallsParts;

  constructor(parts: PvCallsParts) {
    this.#parts = parts;
  }

  layout(domid: Domid): PvGuestLayout {
    const { ctrl, call } = this.#parts;
    const width = new Uint32Array(1);
    call(ctrl.xc_domain_get_guest_width, domid, width);
    const layout = PV_GUESTS.find((each) => each.width === width[0]);
    if (layout === undefined) {
      throw new EnvironmentError('PV_WIDTH', `domain ${domid} has words of ${width[0]} bytes`, { domid });
    }
    return layout;
  }

  /**
   * Returns the highest mfn of the host.
   * @throws {EnvironmentError} If the host has memory above 16 TiB.
   */
  maxMfn(): number {
    const { ctrl, call } = this.#parts;
    const max = new BigUint64Array(1);
    call(ctrl.xc_maximum_ram_page, max);
    const mfn = toSafeNumber(max[0] ?? 0n, 'highest mfn');
    if (mfn >= NO_FRAME) {
      throw new EnvironmentError('PV_HOST', 'PV guests cannot be saved on a host with memory above 16 TiB', {
        data: { maxMfn: mfn },
      });
    }
    return mfn;
  }

  /** Returns the first mfn of the m2p that 32-bit guests see. */
  async compatM2pMfn(): Promise<number> {
    const { abi, ctrl, call, copyOut } = this.#parts;
    const { xen_machphys_mfn_list: fields } = abi.pvCalls;
    return await this.#withBuffer(8, async (address) => {
      const list = new DataView(new ArrayBuffer(fields.size));
      list.setUint32(fields.max_extents, 1, true);
      list.setBigUint64(fields.extent_start, BigInt(address), true);
      call(ctrl.xc_memory_op, XENMEM.XENMEM_machphys_compat_mfn_list, list, fields.size);
      const mfn = dataView(copyOut(address, 8)).getBigUint64(0, true);
      if (list.getUint32(fields.nr_extents, true) !== 1 || mfn >= BigInt(NO_FRAME)) return NO_FRAME;
      return Number(mfn);
    });
  }

  /**
   * Returns whether vCPU 0 has a GDT of its own: the domain builder sets none, the domain's kernel sets one
   * early.
   */
  hasGdt(domid: Domid): boolean {
    const layout = this.layout(domid);
    const view = dataView(this.#basic(domid, 0, layout));
    const { gdt_ents } = layout.vcpu_guest_context;
    return (
      (layout.width === 8 ? view.getBigUint64(gdt_ents, true) : BigInt(view.getUint32(gdt_ents, true))) !== 0n
    );
  }

  /** Returns the state of each online vCPU of a suspended domain. */
  async vcpus(domid: Domid, maxVcpuId: number, layout: PvGuestLayout): Promise<PvVcpu[]> {
    const vcpus: PvVcpu[] = [];
    for (let id = 0; id <= maxVcpuId; id++) {
      if (!this.#online(domid, id)) continue;
      vcpus.push({
        id,
        basic: this.#basic(domid, id, layout),
        extended: this.#extended(domid, id),
        xsave: await this.#xsave(domid, id),
        msrs: await this.#msrs(domid, id),
      });
    }
    return vcpus;
  }

  #online(domid: Domid, id: number): boolean {
    const { abi, ctrl, call } = this.#parts;
    const { xen_domctl_getvcpuinfo: fields } = abi.pvCalls;
    const info = new Uint8Array(fields.size);
    call(ctrl.xc_vcpu_getinfo, domid, id, info);
    return info[fields.online] !== 0;
  }

  #basic(domid: Domid, id: number, { vcpu_guest_context: fields }: PvGuestLayout): Uint8Array {
    const { ctrl, call } = this.#parts;
    // The C type is a union for both widths.
    const context = new Uint8Array(Math.max(...PV_GUESTS.map((each) => each.vcpu_guest_context.size)));
    call(ctrl.xc_vcpu_getcontext, domid, id, context);
    return context.slice(0, fields.size);
  }

  /** Reads the extended context. It is in the call's struct itself, with the vCPU's number and its length. */
  #extended(domid: Domid, id: number): Uint8Array | undefined {
    const { xen_domctl: fields } = this.#parts.abi.pvCalls;
    const domctl = this.#domctl(DOMCTL.XEN_DOMCTL_get_ext_vcpucontext, domid);
    domctl.setUint32(fields['u.ext_vcpucontext.vcpu'], id, true);
    this.#call(domctl);
    const start = fields['u.ext_vcpucontext.vcpu'];
    const length = domctl.getUint32(fields['u.ext_vcpucontext.size'], true);
    if (length === 0) return undefined;
    checkLength('ext_vcpucontext', length, fields.size - start);
    return new Uint8Array(domctl.buffer.slice(start, start + length));
  }

  async #xsave(domid: Domid, id: number): Promise<Uint8Array | undefined> {
    const { xen_domctl: fields } = this.#parts.abi.pvCalls;
    const domctl = this.#domctl(DOMCTL.XEN_DOMCTL_getvcpuextstate, domid);
    domctl.setUint32(fields['u.vcpuextstate.vcpu'], id, true);
    // Without a buffer, the call returns the size.
    this.#call(domctl);
    if (domctl.getBigUint64(fields['u.vcpuextstate.xfeature_mask'], true) === 0n) return undefined;
    const length = (): number =>
      toSafeNumber(domctl.getBigUint64(fields['u.vcpuextstate.size'], true), 'size of xsave state');
    return await this.#state(domctl, fields['u.vcpuextstate.buffer'], 'vcpuextstate', length);
  }

  async #msrs(domid: Domid, id: number): Promise<Uint8Array | undefined> {
    const { xen_domctl: fields, xen_domctl_vcpu_msr } = this.#parts.abi.pvCalls;
    const domctl = this.#domctl(DOMCTL.XEN_DOMCTL_get_vcpu_msrs, domid);
    domctl.setUint32(fields['u.vcpu_msrs.vcpu'], id, true);
    // Without a buffer, the call returns the maximum.
    this.#call(domctl);
    const length = (): number =>
      domctl.getUint32(fields['u.vcpu_msrs.msr_count'], true) * xen_domctl_vcpu_msr.size;
    return await this.#state(domctl, fields['u.vcpu_msrs.msrs'], 'vcpu_msrs', length);
  }

  /**
   * Calls again with a buffer of the length that the first call returned. The second call returns how much it
   * has filled.
   */
  async #state(
    domctl: DataView<ArrayBuffer>,
    handle: number,
    what: string,
    length: () => number,
  ): Promise<Uint8Array | undefined> {
    const room = length();
    if (room === 0) return undefined;
    checkLength(what, room, MAX_STATE);
    return await this.#withBuffer(room, async (address) => {
      domctl.setBigUint64(handle, BigInt(address), true);
      this.#call(domctl);
      const filled = length();
      checkLength(what, filled, room);
      return filled === 0 ? undefined : this.#parts.copyOut(address, filled);
    });
  }

  #domctl(command: number, domid: Domid): DataView<ArrayBuffer> {
    const { abi } = this.#parts;
    const { xen_domctl: fields } = abi.pvCalls;
    if (abi.domctlInterfaceVersion === undefined) throw new TypeError('a raw domctl of an unknown release');
    const domctl = new DataView(new ArrayBuffer(fields.size));
    domctl.setUint32(fields.cmd, command, true);
    domctl.setUint32(fields.interface_version, abi.domctlInterfaceVersion, true);
    domctl.setUint16(fields.domain, domid, true);
    return domctl;
  }

  #call(domctl: DataView): void {
    const { ctrl, call } = this.#parts;
    call(ctrl.xc_domctl, domctl);
  }

  async #withBuffer<T>(bytes: number, use: (address: number | bigint) => Promise<T>): Promise<T> {
    const { abi, ctrl, xch } = this.#parts;
    return await withHypercallBuffer(ctrl, xch(), abi.hypercallBufferSize, bytes, ({ address }) =>
      use(address),
    );
  }
}

function checkLength(what: string, length: number, most: number): void {
  if (length > most) throw new RangeError(`${what}: ${length} bytes of at most ${most}`);
}

function dataView(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
