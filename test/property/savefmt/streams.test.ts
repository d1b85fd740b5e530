import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { BufferSink } from '../../../src/core/byte-sink.ts';
import { BufferSource, type ByteSource, StreamSource } from '../../../src/core/byte-source.ts';
import { XlsnapError } from '../../../src/core/errors.ts';
import { fixed } from '../../../src/savefmt/fixed.ts';
import type { StreamItem } from '../../../src/savefmt/items.ts';
import { SlotLayout } from '../../../src/savefmt/layout.ts';
import {
  domainHeader,
  encodeLibxcRecord,
  imageHeader,
  LIBXC_TYPE,
  type LibxcStateRecord,
  parseLibxcRecord,
} from '../../../src/savefmt/libxc.ts';
import {
  encodeLibxlRecord,
  type LibxlRecord,
  libxlHeader,
  parseLibxlRecord,
} from '../../../src/savefmt/libxl.ts';
import { isPageType, MAX_PFN, PfnWords, pageDataHeader } from '../../../src/savefmt/page-data.ts';
import { readStream } from '../../../src/savefmt/reader.ts';
import { recordHeader } from '../../../src/savefmt/record.ts';
import { verifyStream } from '../../../src/savefmt/verify.ts';
import { StreamWriter } from '../../../src/savefmt/writer.ts';
import { xlWords } from '../../../src/savefmt/xl-header.ts';
import { hvmFile, join, pvContext, saveFile } from '../../support/naive-stream.ts';

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const words = fc.array(u64, { maxLength: 5 }).map((list) => BigUint64Array.from(list));
const bytes = fc.uint8Array({ maxLength: 40 });
const one = <T extends string>(...names: T[]) => fc.constantFrom(...names);
const optional = fc.integer({ min: 0x80000000, max: 0xffffffff });

const libxcRecord: fc.Arbitrary<LibxcStateRecord> = fc.oneof(
  fc.record({ name: one('END', 'VERIFY', 'CHECKPOINT', 'STATIC_DATA_END') }),
  fc.record({ name: one('X86_PV_INFO'), guestWidth: u8, ptLevels: u8, reserved1: u16, reserved2: u32 }),
  fc.record({ name: one('X86_PV_P2M_FRAMES'), startPfn: u32, endPfn: u32, frames: words }),
  fc.record({
    name: one('X86_PV_VCPU_BASIC', 'X86_PV_VCPU_EXTENDED', 'X86_PV_VCPU_XSAVE', 'X86_PV_VCPU_MSRS'),
    vcpuId: u32,
    reserved: u32,
    context: bytes,
  }),
  fc.record({ name: one('HVM_CONTEXT', 'TOOLSTACK'), data: bytes }),
  fc.record({ name: one('SHARED_INFO'), data: u8.map((fill) => new Uint8Array(4096).fill(fill)) }),
  fc.record({ name: one('X86_TSC_INFO'), mode: u32, khz: u32, nsec: u64, incarnation: u32, reserved: u32 }),
  fc.record({
    name: one('HVM_PARAMS'),
    reserved: u32,
    params: fc.array(fc.record({ index: u64, value: u64 }), { maxLength: 4 }),
  }),
  fc.record({ name: one('CHECKPOINT_DIRTY_PFN_LIST'), pfns: words }),
  fc.record({
    name: one('X86_CPUID_POLICY'),
    leaves: fc.array(fc.record({ leaf: u32, subleaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32 }), {
      minLength: 1,
      maxLength: 3,
    }),
  }),
  fc.record({
    name: one('X86_MSR_POLICY'),
    entries: fc.array(fc.record({ index: u32, flags: u32, value: u64 }), { minLength: 1, maxLength: 3 }),
  }),
  fc.record({ name: one('OPTIONAL'), type: optional, data: bytes }),
);

const libxlRecord: fc.Arbitrary<LibxlRecord> = fc.oneof(
  fc.record({ name: one('END', 'LIBXC_CONTEXT', 'CHECKPOINT_END') }),
  fc.record({
    name: one('EMULATOR_XENSTORE_DATA', 'EMULATOR_CONTEXT'),
    emulatorId: u32,
    index: u32,
    data: bytes,
  }),
  fc.record({ name: one('CHECKPOINT_STATE'), controlId: u32, reserved: u32 }),
  fc.record({ name: one('OPTIONAL'), type: optional, data: bytes }),
);

function take(bytes: Uint8Array): { type: number; body: Uint8Array } {
  const { type, length } = recordHeader.parse(bytes);
  return { type, body: bytes.subarray(8, 8 + length) };
}

describe('an encoder undoes its parser', () => {
  const widths: Readonly<Record<'u8' | 'u16' | 'u32' | 'u64', fc.Arbitrary<number | bigint>>> = {
    u8,
    u16,
    u32,
    u64,
  };
  const field = fc.constantFrom('u8', 'u16', 'u32', 'u64' as const);
  test.prop([
    fc.array(field, { minLength: 1, maxLength: 8 }),
    fc.boolean(),
    fc.integer({ min: 0, max: 7 }),
    fc.gen(),
  ])('any layout, at any place in a buffer', (fields, big, shift, gen) => {
    const table = Object.fromEntries(fields.map((width, i) => [`f${i}`, width]));
    const layout = fixed(big ? 'big' : 'little', table);
    const value = Object.fromEntries(fields.map((width, i) => [`f${i}`, gen(() => widths[width])]));
    const bytes = layout.encode(value as never);
    expect(bytes).toHaveLength(layout.size);
    const placed = join(new Uint8Array(shift).fill(0xee), bytes).subarray(shift);
    expect(layout.parse(placed)).toEqual(value);
  });

  test.each([
    ['record header', recordHeader],
    ['image header', imageHeader],
    ['domain header', domainHeader],
    ['libxl header', libxlHeader],
    ['xl words', xlWords],
    ['PAGE_DATA header', pageDataHeader],
  ])('%s: any bytes', async (_, layout) => {
    await fc.assert(
      fc.property(fc.uint8Array({ minLength: layout.size, maxLength: layout.size }), (bytes) => {
        expect((layout.encode as (value: unknown) => Uint8Array)(layout.parse(bytes))).toEqual(bytes);
      }),
    );
  });

  test.prop([libxcRecord])('libxc record', (record) => {
    const { type, body } = take(encodeLibxcRecord(record));
    expect(parseLibxcRecord(type, body, 0)).toEqual(record);
  });

  test.prop([libxlRecord])('libxl record', (record) => {
    const { type, body } = take(encodeLibxlRecord(record));
    expect(parseLibxlRecord(type, body, 0)).toEqual(record);
  });

  test.prop([fc.constantFrom(...Object.values(LIBXC_TYPE)), fc.uint8Array({ maxLength: 80 })])(
    'any body is refused, or written back unchanged',
    (type, body) => {
      if (type === LIBXC_TYPE.PAGE_DATA) return;
      let record: LibxcStateRecord;
      try {
        record = parseLibxcRecord(type, body, 0);
      } catch (error) {
        expect(error).toMatchObject({ code: 'RECORD_SIZE' });
        return;
      }
      expect(take(encodeLibxcRecord(record)).body).toEqual(body);
    },
  );

  test.prop([
    fc.array(
      fc.tuple(
        fc.maxSafeInteger().map((n) => Math.abs(n) % (MAX_PFN + 1)),
        fc.integer({ min: 0, max: 15 }).filter(isPageType),
      ),
    ),
  ])('pfn words', (entries) => {
    const list = PfnWords.of(
      entries.map(([pfn]) => pfn),
      entries.map(([, type]) => type),
    );
    expect(entries.map((_, i) => [list.pfn(i), list.type(i), list.reserved(i)])).toEqual(
      entries.map(([pfn, type]) => [pfn, type, 0]),
    );
  });
});

/** Everything that a stream says, pages included. */
async function contents(source: ByteSource): Promise<unknown[]> {
  const all: unknown[] = [];
  for await (const item of readStream(source)) {
    if (item.kind !== 'libxc-record' || item.record.name !== 'PAGE_DATA') {
      all.push(item);
      continue;
    }
    const { words: list, pages, reserved } = item.record;
    const fills: (number | undefined)[] = [];
    for await (const chunk of pages) {
      for (let at = 0; at < chunk.length; at += 512) fills.push(chunk[at]);
    }
    all.push({ offset: item.offset, words: [...list.bytes], reserved, fills });
  }
  return all;
}

const files = [hvmFile(), saveFile(pvContext())];
const anyFile = fc.constantFrom(...files);

test.prop([anyFile, fc.array(fc.integer({ min: 1, max: 6000 }), { minLength: 1, maxLength: 20 })], {
  numRuns: 40,
})('the chunks of a source do not matter', async (bytes, sizes) => {
  async function* chunks(): AsyncGenerator<Uint8Array> {
    for (let at = 0, i = 0; at < bytes.length; i++) {
      const size = sizes[i % sizes.length] ?? 1;
      yield bytes.slice(at, at + size);
      at += size;
    }
  }
  expect(await contents(new StreamSource(chunks()))).toEqual(await contents(new BufferSource(bytes)));
});

test.prop(
  [
    anyFile,
    fc.array(fc.tuple(fc.nat(), u8), { minLength: 1, maxLength: 4 }),
    fc.option(fc.nat(), { freq: 3 }),
  ],
  { numRuns: 300 },
)('spoilt bytes give a typed error, or are written back as they are', async (bytes, changes, cut) => {
  const interesting = 1000;
  const spoilt = bytes.slice(0, cut === null ? undefined : cut % bytes.length);
  // Mostly in the headers, where it matters.
  for (const [at, byte] of changes) spoilt[at % (at % 3 === 0 ? bytes.length : interesting)] = byte;
  const sink = new BufferSink();
  const writer = new StreamWriter(sink);
  try {
    for await (const item of readStream(new BufferSource(spoilt))) await writer.write(item as StreamItem);
    expect(Buffer.compare(sink.bytes(), spoilt.subarray(0, sink.offset))).toBe(0);
  } catch (error) {
    if (!(error instanceof XlsnapError)) throw error;
    expect(error.exitCode).toBe(9);
  }
  const report = await verifyStream(new BufferSource(spoilt));
  expect(report.ok || report.findings.length > 0).toBe(true);
});

test.prop([fc.nat({ max: 3 * 2 ** 24 }), fc.integer({ min: 1, max: 63 }), fc.nat({ max: 1000 }), fc.nat()])(
  'slots are aligned, disjoint, and without gaps except for the heads',
  (count, k, page, seed) => {
    const layout = SlotLayout.create({ firstRecordOffset: page * 4096, count, perRecord: 512 * k - 2 });
    if (count === 0) {
      expect(layout.end).toBe(page * 4096);
      return;
    }
    const index = seed % count;
    const at = layout.slotOffset(index);
    expect(at % 4096).toBe(0);
    const number = Math.floor(index / layout.perRecord);
    const record = layout.record(number);
    if (index + 1 < record.firstIndex + record.count) expect(layout.slotOffset(index + 1)).toBe(at + 4096);
    else {
      const end = record.dataOffset + record.count * 4096;
      expect(at + 4096).toBe(end);
      expect(end).toBe(index + 1 === count ? layout.end : layout.record(number + 1).offset);
    }
    const last = layout.record(layout.recordCount - 1);
    expect(last.offset + 16 + 8 * (last.fillers + last.count)).toBe(last.dataOffset);
    expect(last.fillers).toBeLessThan(512);
  },
);
