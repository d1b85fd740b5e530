import { describe, expect, test } from 'vitest';
import { RecordError } from '../../../src/savefmt/errors.ts';
import {
  encodeLibxcHeaders,
  encodeLibxcRecord,
  type LibxcStateRecord,
  makeLibxcHeaders,
  parseLibxcRecord,
} from '../../../src/savefmt/libxc.ts';
import {
  encodeLibxlHeader,
  encodeLibxlRecord,
  type LibxlRecord,
  parseLibxlRecord,
  xenstorePairs,
} from '../../../src/savefmt/libxl.ts';
import { hexBytes } from '../../support/naive-stream.ts';

function take(bytes: Uint8Array): { type: number; body: Uint8Array; length: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const length = view.getUint32(4, true);
  return { type: view.getUint32(0, true), length, body: bytes.subarray(8, 8 + length) };
}

const shared = new Uint8Array(4096).fill(0x5a);

/** By hand from libxc-migration-stream.pandoc. */
const libxc: [LibxcStateRecord, string][] = [
  [{ name: 'END' }, '00000000 00000000'],
  [
    { name: 'X86_PV_INFO', guestWidth: 8, ptLevels: 4, reserved1: 0x201, reserved2: 0x6050403 },
    '02000000 08000000 08 04 0102 03040506',
  ],
  [
    { name: 'X86_PV_P2M_FRAMES', startPfn: 0, endPfn: 0x3ff, frames: BigUint64Array.of(0x1234n, 0xabcdefn) },
    '03000000 18000000 00000000 ff030000 3412000000000000 efcdab0000000000',
  ],
  [
    { name: 'X86_PV_VCPU_BASIC', vcpuId: 3, reserved: 0, context: hexBytes('0102030405060708') },
    '04000000 10000000 03000000 00000000 0102030405060708',
  ],
  [
    { name: 'X86_PV_VCPU_EXTENDED', vcpuId: 1, reserved: 9, context: hexBytes('aa') },
    '05000000 09000000 01000000 09000000 aa 00000000000000',
  ],
  [
    { name: 'X86_PV_VCPU_XSAVE', vcpuId: 0, reserved: 0, context: hexBytes('') },
    '06000000 08000000 00000000 00000000',
  ],
  [{ name: 'SHARED_INFO', data: shared }, `07000000 00100000 ${'5a'.repeat(4096)}`],
  [
    { name: 'X86_TSC_INFO', mode: 2, khz: 0x10203, nsec: 0x1122334455667788n, incarnation: 5, reserved: 6 },
    '08000000 18000000 02000000 03020100 8877665544332211 05000000 06000000',
  ],
  [{ name: 'HVM_CONTEXT', data: hexBytes('010203') }, '09000000 03000000 010203 0000000000'],
  [
    { name: 'HVM_PARAMS', reserved: 7, params: [{ index: 1n, value: 0xfeffcn }] },
    '0a000000 18000000 01000000 07000000 0100000000000000 fcef0f0000000000',
  ],
  [{ name: 'HVM_PARAMS', reserved: 0, params: [] }, '0a000000 08000000 00000000 00000000'],
  [{ name: 'TOOLSTACK', data: hexBytes('ff') }, '0b000000 01000000 ff 00000000000000'],
  [
    { name: 'X86_PV_VCPU_MSRS', vcpuId: 0, reserved: 0, context: hexBytes('00'.repeat(16)) },
    `0c000000 18000000 00000000 00000000 ${'00'.repeat(16)}`,
  ],
  [{ name: 'VERIFY' }, '0d000000 00000000'],
  [{ name: 'CHECKPOINT' }, '0e000000 00000000'],
  [
    { name: 'CHECKPOINT_DIRTY_PFN_LIST', pfns: BigUint64Array.of(1n, 2n) },
    '0f000000 10000000 0100000000000000 0200000000000000',
  ],
  [{ name: 'STATIC_DATA_END' }, '10000000 00000000'],
  [
    {
      name: 'X86_CPUID_POLICY',
      leaves: [{ leaf: 7, subleaf: 0xffffffff, eax: 1, ebx: 2, ecx: 3, edx: 0x80000004 }],
    },
    '11000000 18000000 07000000 ffffffff 01000000 02000000 03000000 04000080',
  ],
  [
    { name: 'X86_MSR_POLICY', entries: [{ index: 0xce, flags: 1, value: 0x8000000000000000n }] },
    '12000000 10000000 ce000000 01000000 0000000000000080',
  ],
  [{ name: 'OPTIONAL', type: 0x80000001, data: hexBytes('0102') }, '01000080 02000000 0102 000000000000'],
];

/** By hand from libxl-migration-stream.pandoc. */
const libxl: [LibxlRecord, string][] = [
  [{ name: 'END' }, '00000000 00000000'],
  [{ name: 'LIBXC_CONTEXT' }, '01000000 00000000'],
  [
    { name: 'EMULATOR_XENSTORE_DATA', emulatorId: 2, index: 0, data: hexBytes('6100 6200') },
    '02000000 0c000000 02000000 00000000 61006200 00000000',
  ],
  [
    { name: 'EMULATOR_CONTEXT', emulatorId: 1, index: 4, data: hexBytes('51') },
    '03000000 09000000 01000000 04000000 51 00000000000000',
  ],
  [{ name: 'CHECKPOINT_END' }, '04000000 00000000'],
  [{ name: 'CHECKPOINT_STATE', controlId: 3, reserved: 0 }, '05000000 08000000 03000000 00000000'],
  [{ name: 'OPTIONAL', type: 0xffffffff, data: hexBytes('') }, 'ffffffff 00000000'],
];

describe('records are written as the specifications draw them, and read back', () => {
  test.each(libxc)('libxc %o', (record, text) => {
    const bytes = hexBytes(text);
    expect(encodeLibxcRecord(record)).toEqual(bytes);
    const { type, body } = take(bytes);
    expect(parseLibxcRecord(type, body, 0)).toEqual(record);
  });

  test.each(libxl)('libxl %o', (record, text) => {
    const bytes = hexBytes(text);
    expect(encodeLibxlRecord(record)).toEqual(bytes);
    const { type, body } = take(bytes);
    expect(parseLibxlRecord(type, body, 0)).toEqual(record);
  });

  test('headers', () => {
    const { image, domain } = makeLibxcHeaders('pv', 4, 20);
    expect(encodeLibxcHeaders(image, domain)).toEqual(
      hexBytes(
        'ffffffffffffffff 58454e46 00000003 0000 0000 00000000',
        '01000000 0c00 0000 04000000 14000000',
      ),
    );
    expect(encodeLibxlHeader({ version: 2, options: 2 })).toEqual(
      hexBytes('4c6962786c466d74 00000002 00000002'),
    );
  });
});

describe('bodies of a wrong size', () => {
  test.each([
    ['END', 0x0, 8],
    ['X86_PV_INFO', 0x2, 7],
    ['X86_PV_INFO', 0x2, 16],
    ['X86_PV_P2M_FRAMES', 0x3, 0],
    ['X86_PV_P2M_FRAMES', 0x3, 12],
    ['X86_PV_VCPU_BASIC', 0x4, 7],
    ['X86_PV_VCPU_MSRS', 0xc, 0],
    ['SHARED_INFO', 0x7, 4095],
    ['X86_TSC_INFO', 0x8, 16],
    ['HVM_PARAMS', 0xa, 4],
    ['HVM_PARAMS', 0xa, 24],
    ['VERIFY', 0xd, 1],
    ['CHECKPOINT', 0xe, 1],
    ['CHECKPOINT_DIRTY_PFN_LIST', 0xf, 4],
    ['STATIC_DATA_END', 0x10, 1],
    ['X86_CPUID_POLICY', 0x11, 0],
    ['X86_CPUID_POLICY', 0x11, 16],
    ['X86_MSR_POLICY', 0x12, 0],
    ['X86_MSR_POLICY', 0x12, 24],
  ])('libxc %s (%i) of %i bytes', (name, type, size) => {
    const parse = (): unknown => parseLibxcRecord(type, new Uint8Array(size), 4711);
    expect(parse).toThrow(RecordError);
    expect(parse).toThrow(
      expect.objectContaining({
        code: 'RECORD_SIZE',
        offset: 4711,
        data: expect.objectContaining({ record: name }),
      }),
    );
  });

  test.each([
    ['END', 0, 1],
    ['LIBXC_CONTEXT', 1, 8],
    ['EMULATOR_XENSTORE_DATA', 2, 7],
    ['EMULATOR_CONTEXT', 3, 0],
    ['CHECKPOINT_END', 4, 8],
    ['CHECKPOINT_STATE', 5, 4],
  ])('libxl %s (%i) of %i bytes', (name, type, size) => {
    expect(() => parseLibxlRecord(type, new Uint8Array(size), 11)).toThrow(
      expect.objectContaining({
        code: 'RECORD_SIZE',
        offset: 11,
        data: expect.objectContaining({ record: name }),
      }),
    );
  });
});

test('unknown mandatory records are refused', () => {
  expect(() => parseLibxcRecord(0x13, new Uint8Array(0), 5)).toThrow(
    expect.objectContaining({ code: 'RECORD_UNKNOWN', offset: 5, exitCode: 9 }),
  );
  expect(() => parseLibxlRecord(6, new Uint8Array(0), 5)).toThrow(
    expect.objectContaining({ code: 'RECORD_UNKNOWN', offset: 5 }),
  );
});

test('a value that does not fit its field is not truncated', () => {
  expect(() =>
    encodeLibxcRecord({ name: 'X86_TSC_INFO', mode: 2 ** 32, khz: 0, nsec: 0n, incarnation: 0, reserved: 0 }),
  ).toThrow(RangeError);
  expect(() =>
    encodeLibxcRecord({ name: 'X86_TSC_INFO', mode: 0, khz: -1, nsec: 0n, incarnation: 0, reserved: 0 }),
  ).toThrow(RangeError);
  expect(() => encodeLibxcRecord({ name: 'OPTIONAL', type: 1, data: new Uint8Array(0) })).toThrow(RangeError);
});

test('xenstore data of an emulator is split into pairs', () => {
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
  expect(xenstorePairs(bytes(''))).toEqual([]);
  expect(xenstorePairs(bytes('a\0b\0c/d\0\0'))).toEqual([
    ['a', 'b'],
    ['c/d', ''],
  ]);
  expect(() => xenstorePairs(bytes('a\0b'))).toThrow(expect.objectContaining({ code: 'XENSTORE_DATA' }));
  expect(() => xenstorePairs(bytes('a\0'))).toThrow(expect.objectContaining({ code: 'XENSTORE_DATA' }));
});
