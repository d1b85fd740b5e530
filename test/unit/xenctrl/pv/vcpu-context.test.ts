import { describe, expect, test } from 'vitest';
import { NO_FRAME } from '../../../../src/xenctrl/pv/frame-table.ts';
import { canonicalVcpu } from '../../../../src/xenctrl/pv/vcpu-context.ts';
import { pvLayout } from '../../../support/pv-world.ts';

/** mfn m has pfn m - 0x10000. */
const pfnOf = (mfn: number): number => (mfn >= 0x10000 && mfn < 0x20000 ? mfn - 0x10000 : NO_FRAME);

class Context {
  readonly layout;
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(width: 4 | 8, bytes?: Uint8Array) {
    this.layout = pvLayout(width);
    this.bytes = bytes ?? new Uint8Array(this.layout.vcpu_guest_context.size);
    this.#view = new DataView(this.bytes.buffer);
  }

  get(at: number): bigint {
    return this.layout.width === 8
      ? this.#view.getBigUint64(at, true)
      : BigInt(this.#view.getUint32(at, true));
  }

  set(at: number, value: bigint): this {
    if (this.layout.width === 8) this.#view.setBigUint64(at, value, true);
    else this.#view.setUint32(at, Number(value), true);
    return this;
  }
}

function make(width: 4 | 8): Context {
  const context = new Context(width);
  context.bytes.fill(0x5a);
  const { vcpu_guest_context: fields } = context.layout;
  context.set(fields['user_regs.edx'], 0x10077n).set(fields.gdt_ents, 513n);
  for (let i = 0; i < 16; i++) context.set(fields.gdt_frames + i * width, BigInt(0x10100 + i));
  context.set(fields.ctrlreg + 3 * width, 0x10042n << 12n).set(fields.ctrlreg + width, 0n);
  return context;
}

describe.each([4, 8] as const)('a context with words of %i bytes', (width) => {
  const { vcpu_guest_context: fields } = pvLayout(width);

  test('has pfns for start info, GDT and cr3, and is otherwise unchanged', () => {
    const context = make(width);
    const canonical = new Context(width, canonicalVcpu(context.bytes, context.layout, 0, pfnOf));
    expect(canonical.get(fields['user_regs.edx'])).toBe(0x77n);
    expect(canonical.get(fields.gdt_frames)).toBe(0x100n);
    expect(canonical.get(fields.gdt_frames + width)).toBe(0x101n);
    // 513 entries are two frames; what follows them is ignored.
    expect(canonical.get(fields.gdt_frames + 2 * width)).toBe(0x10102n);
    expect(canonical.get(fields.ctrlreg + 3 * width)).toBe(0x42n << 12n);
    expect(canonical.get(fields.ctrlreg + width)).toBe(0n);
    const changed = [...canonical.bytes.keys()].filter((at) => canonical.bytes[at] !== context.bytes[at]);
    const places = [
      fields['user_regs.edx'],
      fields.gdt_frames,
      fields.gdt_frames + width,
      fields.ctrlreg + 3 * width,
    ];
    expect(changed.every((at) => places.some((place) => at >= place && at < place + width))).toBe(true);
  });

  test('has the start info of vCPU 0 only', () => {
    const context = make(width).set(fields['user_regs.edx'], 3n);
    const canonical = new Context(width, canonicalVcpu(context.bytes, context.layout, 1, pfnOf));
    expect(canonical.get(fields['user_regs.edx'])).toBe(3n);
    expect(() => canonicalVcpu(context.bytes, context.layout, 0, pfnOf)).toThrow(/start info/);
  });

  test.each([
    ['VCPU_FRAME', fields.gdt_frames + width, 9n],
    ['VCPU_FRAME', fields.ctrlreg + 3 * width, 0n],
    ['VCPU_GDT', fields.gdt_ents, 14n * 512n + 1n],
  ])('%s', (code, at, value) => {
    const context = make(width).set(at, value);
    expect(() => canonicalVcpu(context.bytes, context.layout, 1, pfnOf)).toThrow(
      expect.objectContaining({ code }),
    );
  });
});

test('a 64-bit guest has page tables for user mode too', () => {
  const { vcpu_guest_context: fields } = pvLayout(8);
  const cr1 = fields.ctrlreg + 8;
  const context = make(8).set(cr1, 0x10043n << 12n);
  const canonical = new Context(8, canonicalVcpu(context.bytes, context.layout, 0, pfnOf));
  expect(canonical.get(cr1)).toBe((0x43n << 12n) | 1n);
  context.set(cr1, 0xffffffffffffffffn);
  expect(() => canonicalVcpu(context.bytes, context.layout, 0, pfnOf)).toThrow(/cr1/);
});
