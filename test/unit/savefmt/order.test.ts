import { describe, expect, test } from 'vitest';
import { BufferSink } from '../../../src/core/byte-sink.ts';
import { BufferSource } from '../../../src/core/byte-source.ts';
import type { StreamItem } from '../../../src/savefmt/items.ts';
import { makeLibxcHeaders, type PageData } from '../../../src/savefmt/libxc.ts';
import { PfnWords } from '../../../src/savefmt/page-data.ts';
import { verifyStream } from '../../../src/savefmt/verify.ts';
import { StreamWriter } from '../../../src/savefmt/writer.ts';
import { makeXlHeader } from '../../../src/savefmt/xl-header.ts';
import {
  cpuPolicy,
  hvmContext,
  hvmFile,
  hvmState,
  join,
  libxcHeaders,
  libxlHeader,
  page,
  pageData,
  pvContext,
  record,
  saveFile,
  u32,
  u64,
  xlHeader,
} from '../../support/naive-stream.ts';

const [tsc = new Uint8Array(), context = new Uint8Array(), params = new Uint8Array()] = hvmState;
const [cpuid = new Uint8Array()] = cpuPolicy;
const hvm = libxcHeaders(2);
const pv = libxcHeaders(1);
const sde = record(0x10);
const data = pageData([0, 0, 1]);
const end = record(0);
const pvInfo = record(0x2, [8, 4, 0, 0, 0, 0, 0, 0]);
const frames = record(0x3, [...u32(0), ...u32(511), ...u64(3n)]);
const shared = record(0x7, page(1));
const vcpu = record(0x4, [...u32(0), ...u32(0), ...new Array(5168).fill(0)]);

async function codes(bytes: Uint8Array, format: 'xl' | 'libxc' = 'libxc'): Promise<string[]> {
  const { findings } = await verifyStream(new BufferSource(bytes), { format });
  return findings.map(({ severity, code }) => `${severity} ${code}`);
}

describe('records that are misplaced', () => {
  test.each<[string, Uint8Array, string[]]>([
    ['sound', join(hvm, sde, data, ...hvmState, end), []],
    ['sound, PV', join(pv, pvInfo, sde, frames, data, tsc, shared, vcpu, end), []],
    ['parameters before the context', join(hvm, sde, data, tsc, params, context, end), []],
    ['pages for debugging', join(hvm, sde, data, record(0xd), data, ...hvmState, end), []],
    [
      'no STATIC_DATA_END',
      join(hvm, data, ...hvmState, end),
      ['error', 'warning', 'warning', 'warning', 'error'].map((s) => `${s} RECORD_ORDER`),
    ],
    ['two STATIC_DATA_END', join(hvm, sde, sde, data, ...hvmState, end), ['error RECORD_REPEATED']],
    ['policy too late', join(hvm, sde, cpuid, data, ...hvmState, end), ['warning RECORD_ORDER']],
    ['two policies', join(hvm, cpuid, cpuid, sde, data, ...hvmState, end), ['warning RECORD_REPEATED']],
    [
      'policy in version 2',
      join(libxcHeaders(2, 2), cpuid, data, ...hvmState, end),
      ['warning RECORD_MISPLACED'],
    ],
    ['two X86_TSC_INFO', join(hvm, sde, data, tsc, ...hvmState, end), ['warning RECORD_REPEATED']],
    ['no X86_TSC_INFO', join(hvm, sde, data, context, params, end), ['warning RECORD_MISSING']],
    ['no HVM_CONTEXT', join(hvm, sde, data, tsc, params, end), ['error RECORD_MISSING']],
    ['no HVM_PARAMS', join(hvm, sde, data, tsc, context, end), ['error RECORD_MISSING']],
    ['no PAGE_DATA', join(hvm, sde, ...hvmState, end), ['error RECORD_MISSING']],
    [
      'PV record of an HVM guest',
      join(hvm, sde, data, shared, ...hvmState, end),
      ['error RECORD_MISPLACED', 'error RECORD_ORDER'],
    ],
    [
      'HVM record of a PV guest',
      join(pv, pvInfo, sde, frames, data, tsc, shared, vcpu, params, end),
      ['error RECORD_MISPLACED'],
    ],
    [
      'two X86_PV_INFO',
      join(pv, pvInfo, pvInfo, sde, frames, data, tsc, shared, vcpu, end),
      ['error RECORD_REPEATED'],
    ],
    [
      'no X86_PV_INFO',
      join(pv, sde, frames, data, tsc, vcpu, end),
      ['error RECORD_ORDER', 'error RECORD_MISSING', 'error RECORD_MISSING'],
    ],
    [
      'pages before the p2m',
      join(pv, pvInfo, sde, data, frames, tsc, shared, vcpu, end),
      ['error RECORD_ORDER'],
    ],
    [
      'vCPU before the pages',
      join(pv, pvInfo, sde, frames, vcpu, data, tsc, shared, end),
      ['error RECORD_ORDER'],
    ],
    [
      'vCPU twice',
      join(pv, pvInfo, sde, frames, data, tsc, shared, vcpu, vcpu, end),
      ['warning RECORD_REPEATED'],
    ],
    ['TOOLSTACK', join(hvm, sde, data, record(0xb, [1]), ...hvmState, end), ['error RECORD_MISPLACED']],
    [
      'list of COLO',
      join(hvm, sde, data, record(0xf, u64(1n)), ...hvmState, end),
      ['error RECORD_MISPLACED'],
    ],
  ])('%s', async (_, bytes, expected) => {
    expect(await codes(bytes)).toEqual(expected);
  });

  test.each<[string, Uint8Array, string[]]>([
    ['no LIBXC_CONTEXT', join(xlHeader(), libxlHeader, end), ['error RECORD_MISSING']],
    ['two LIBXC_CONTEXT', saveFile(hvmContext(), record(1), hvmContext()), ['error RECORD_REPEATED']],
    [
      'emulator before the context',
      join(xlHeader(), libxlHeader, record(3, [...u32(2), ...u32(0)]), record(1), hvmContext(), end),
      ['error RECORD_ORDER'],
    ],
    [
      'emulator of a PV guest',
      saveFile(pvContext(), record(3, [...u32(2), ...u32(0)])),
      ['error RECORD_MISPLACED'],
    ],
    ['CHECKPOINT_END alone', saveFile(hvmContext(), record(4)), ['error RECORD_MISPLACED']],
    [
      'CHECKPOINT_STATE',
      saveFile(hvmContext(), record(5, [...u32(0), ...u32(0)])),
      ['error RECORD_MISPLACED'],
    ],
    ['optional record of libxl', saveFile(hvmContext(), record(0x80000001)), ['error RECORD_MISPLACED']],
    ['bytes behind END', join(hvmFile(), Uint8Array.of(0)), ['warning TRAILING']],
  ])('libxl: %s', async (_, bytes, expected) => {
    expect((await codes(bytes, 'xl')).sort()).toEqual(expected.sort());
  });
});

describe('content that Xen refuses', () => {
  const with_ = (...records: Uint8Array[]): Uint8Array =>
    join(pv, pvInfo, sde, frames, data, tsc, shared, vcpu, ...records, end);
  const blob = (type: number, size: number, id = 0): Uint8Array =>
    record(type, [...u32(id), ...u32(0), ...new Array(size).fill(0)]);
  test.each<[string, Uint8Array, string[]]>([
    [
      'widths',
      join(pv, record(0x2, [8, 3, 0, 0, 0, 0, 0, 0]), sde, frames, data, tsc, shared, vcpu, end),
      ['error PV_INFO'],
    ],
    [
      'p2m backwards',
      join(pv, pvInfo, sde, record(0x3, [...u32(9), ...u32(1)]), data, tsc, shared, vcpu, end),
      ['error P2M_FRAMES'],
    ],
    [
      'a p2m frame too few',
      join(pv, pvInfo, sde, record(0x3, [...u32(0), ...u32(512), ...u64(1n)]), data, tsc, shared, vcpu, end),
      ['error P2M_FRAMES'],
    ],
    [
      'pfn beyond the p2m',
      join(pv, pvInfo, sde, frames, pageData([512, 0xf]), tsc, shared, vcpu, end),
      ['error PFN_RANGE'],
    ],
    ['basic context', with_(blob(0x4, 2800, 1)), ['error VCPU_SIZE']],
    ['extended context', with_(blob(0x5, 129)), ['error VCPU_SIZE']],
    ['xsave', with_(blob(0x6, 8)), ['error VCPU_SIZE']],
    ['MSRs', with_(blob(0xc, 8)), ['error VCPU_SIZE']],
    ['empty vCPU record', with_(blob(0xc, 0)), ['warning EMPTY_RECORD']],
    ['empty HVM_CONTEXT', join(hvm, sde, data, tsc, record(0x9), params, end), ['error EMPTY_RECORD']],
    [
      'empty HVM_PARAMS',
      join(hvm, sde, data, tsc, context, record(0xa, [...u32(0), ...u32(0)]), end),
      ['warning EMPTY_RECORD'],
    ],
    [
      'flags of an MSR',
      join(hvm, record(0x12, [...u32(1), ...u32(1), ...u64(0n)]), sde, data, ...hvmState, end),
      ['warning RESERVED'],
    ],
  ])('%s', async (_, bytes, expected) => {
    expect(await codes(bytes)).toEqual(expected);
  });

  const emulator = (type: number, id: number, text: string): Uint8Array =>
    saveFile(hvmContext(), record(type, [...u32(id), ...u32(0), ...new TextEncoder().encode(text)]));
  test.each<[string, Uint8Array, string[]]>([
    ['JSON', join(xlHeader('{'), hvmFile().subarray(xlHeader().length)), ['error XL_CONFIG_JSON']],
    ['unknown emulator', emulator(3, 3, ''), ['warning EMULATOR_ID']],
    ['no NUL', emulator(2, 2, 'a'), ['error XENSTORE_DATA']],
    ['absolute key', emulator(2, 2, '/a\0b\0'), ['error XENSTORE_DATA']],
  ])('%s', async (_, bytes, expected) => {
    expect(await codes(bytes, 'xl')).toEqual(expected);
  });
});

test('findings are bounded', async () => {
  const bytes = join(hvm, sde, ...Array.from({ length: 30 }, () => tsc), data, ...hvmState, end);
  const { findings, omitted } = await verifyStream(new BufferSource(bytes), {
    format: 'libxc',
    maxFindings: 5,
  });
  expect([findings.length, omitted]).toEqual([5, 25]);
});

describe('the writer', () => {
  async function* pages(...chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
    yield* chunks;
  }
  const headers: StreamItem = { kind: 'libxc-headers', ...makeLibxcHeaders('hvm', 4, 20) };
  const staticEnd: StreamItem = { kind: 'libxc-record', record: { name: 'STATIC_DATA_END' } };
  const pageItem = (words: PfnWords, ...chunks: Uint8Array[]): StreamItem => {
    const record: PageData = { name: 'PAGE_DATA', reserved: 0, words, pages: pages(...chunks) };
    return { kind: 'libxc-record', record };
  };

  test('appends what an independent encoder writes', async () => {
    const sink = new BufferSink();
    const writer = new StreamWriter(sink, 'libxc');
    await writer.write(headers);
    await writer.write(staticEnd);
    await writer.write(pageItem(PfnWords.of([4, 5, 6], [0, 0xf, 0]), page(1), page(2)));
    expect(sink.bytes()).toEqual(join(hvm, sde, pageData([4, 0, 1], [5, 0xf], [6, 0, 2])));
    expect(writer.done).toBe(false);
  });

  test('refuses a wrong order', async () => {
    const writer = new StreamWriter(new BufferSink());
    await expect(writer.write(staticEnd)).rejects.toMatchObject({ code: 'RECORD_ORDER', offset: 0 });
    await writer.write({ kind: 'xl-header', header: makeXlHeader('{}') });
    await expect(writer.write(headers)).rejects.toMatchObject({ code: 'RECORD_ORDER' });

    const bare = new StreamWriter(new BufferSink(), 'libxc');
    await bare.write(headers);
    await expect(bare.write(pageItem(PfnWords.of([1]), page(1)))).rejects.toMatchObject({
      code: 'RECORD_ORDER',
    });
  });

  test('refuses pages that are not those of the words', async () => {
    const sink = new BufferSink();
    const bare = async (): Promise<StreamWriter> => {
      const writer = new StreamWriter(sink, 'libxc');
      await writer.write(headers);
      await writer.write(staticEnd);
      return writer;
    };
    await expect((await bare()).write(pageItem(PfnWords.of([1])))).rejects.toThrow(RangeError);
    const before = sink.offset;
    const surplus = (await bare()).write(pageItem(PfnWords.of([1]), page(1), page(2)));
    await expect(surplus).rejects.toThrow(RangeError);
    // Nothing beyond the record's length has been written.
    expect(sink.offset - before).toBe(40 + 8 + 24 + 4096);
    await expect((await bare()).write(pageItem(PfnWords.of([])))).rejects.toThrow(RangeError);
  });
});
