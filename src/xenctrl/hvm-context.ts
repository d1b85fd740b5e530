/** Reads the HVM context of a domain: xen/include/public/arch-x86/hvm/save.h. */

/** `struct hvm_save_descriptor`: u16 typecode, u16 instance, u32 length of what follows. */
const DESCRIPTOR_BYTES = 8;
/** HVM_SAVE_CODE(CPU). */
const CPU = 2;
/** In `struct hvm_hw_cpu`, after fpu_regs[512], sixteen registers, rip and rflags. */
const CR0_OFFSET = 512 + 18 * 8;
const CR0_PG = 1n << 31n;

/**
 * Returns whether vCPU 0 has paging on. Paging is off in a domain that has never run, and while firmware
 * runs; every operating system for which Xen has drivers turns it on.
 * @param context the whole context, as `XenControl.hvmContext` returns it
 * @returns `undefined` if there is no vCPU 0
 */
export function pagingIsOn(context: Uint8Array): boolean | undefined {
  const view = new DataView(context.buffer, context.byteOffset, context.byteLength);
  let at = 0;
  while (at + DESCRIPTOR_BYTES <= view.byteLength) {
    const typecode = view.getUint16(at, true);
    const instance = view.getUint16(at + 2, true);
    const length = view.getUint32(at + 4, true);
    const body = at + DESCRIPTOR_BYTES;
    if (typecode === CPU && instance === 0 && length >= CR0_OFFSET + 8 && body + length <= view.byteLength) {
      return (view.getBigUint64(body + CR0_OFFSET, true) & CR0_PG) !== 0n;
    }
    at = body + length;
  }
  return undefined;
}
