/**
 * The registers of a PV guest's vCPU. Some hold mfns, which become pfns in a save file (X86_PV_VCPU_BASIC).
 */
import type { PvGuestLayout } from '../abi.ts';
import { badGuest, hexFrame } from './errors.ts';
import { NO_FRAME } from './frame-table.ts';
import { cr3Frame, frameCr3 } from './p2m.ts';

/** Maximum number of entries in a guest's GDT, FIRST_RESERVED_GDT_ENTRY (xen/arch-x86/xen.h). */
const MAX_GDT_ENTRIES = 14 * 512;
const GDT_ENTRIES_PER_FRAME = 512;

/**
 * Replaces mfns with pfns: the GDT's frames, cr3, a 64-bit guest's page tables for user mode, and for vCPU 0
 * the start info, which a guest passes in edx when it suspends.
 * @param context struct vcpu_guest_context of a suspended guest
 * @param pfnOf see `PageTables.pfnOf`
 * @returns a new context
 * @throws {DomainError} If a frame is not the guest's own.
 */
export function canonicalVcpu(
  context: Uint8Array,
  layout: PvGuestLayout,
  vcpu: number,
  pfnOf: (mfn: number) => number,
): Uint8Array {
  const { width, vcpu_guest_context: fields } = layout;
  if (context.length !== fields.size) throw new RangeError(`a context of ${context.length} bytes`);
  const copy = context.slice();
  const view = new DataView(copy.buffer);
  const get = (at: number): bigint =>
    width === 8 ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
  const set = (at: number, value: bigint): void => {
    if (width === 8) view.setBigUint64(at, value, true);
    else view.setUint32(at, Number(value), true);
  };
  const pfn = (mfn: number, what: string): number => {
    const found = pfnOf(mfn);
    if (found === NO_FRAME) {
      const message = `vCPU ${vcpu}: mfn ${hexFrame(mfn)} of ${what} is not the guest's own page`;
      throw badGuest('VCPU_FRAME', message, { vcpu, mfn });
    }
    return found;
  };
  const frame = (at: number, what: string): void => {
    const mfn = get(at);
    set(at, BigInt(pfn(mfn < BigInt(NO_FRAME) ? Number(mfn) : NO_FRAME, what)));
  };

  if (vcpu === 0) frame(fields['user_regs.edx'], 'the start info');
  const entries = get(fields.gdt_ents);
  if (entries > BigInt(MAX_GDT_ENTRIES)) {
    throw badGuest('VCPU_GDT', `vCPU ${vcpu}: a GDT of ${entries} entries`, { vcpu });
  }
  const frames = Math.ceil(Number(entries) / GDT_ENTRIES_PER_FRAME);
  for (let i = 0; i < frames; i++) frame(fields.gdt_frames + i * width, `frame ${i} of the GDT`);

  const cr3 = fields.ctrlreg + 3 * width;
  set(cr3, frameCr3(pfn(cr3Frame(get(cr3), width), 'cr3'), width));
  const cr1 = fields.ctrlreg + width;
  if (width === 8 && get(cr1) !== 0n) {
    // Bit 0 means that there are such page tables; a restore checks it.
    set(cr1, frameCr3(pfn(cr3Frame(get(cr1), width), 'cr1'), width) | 1n);
  }
  return copy;
}
