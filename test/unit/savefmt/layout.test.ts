import { describe, expect, test } from 'vitest';
import { BufferSource } from '../../../src/core/byte-source.ts';
import { encodePrefix, encodeSuffix } from '../../../src/savefmt/frame.ts';
import { DEFAULT_PAGES_PER_RECORD, SlotLayout } from '../../../src/savefmt/layout.ts';
import { encodeAmendment, PAGE_TYPE, PfnWords } from '../../../src/savefmt/page-data.ts';
import { readStream } from '../../../src/savefmt/reader.ts';
import { verifyStream } from '../../../src/savefmt/verify.ts';
import { configJson, page, pageData } from '../../support/naive-stream.ts';

const state = [
  { name: 'X86_TSC_INFO', mode: 0, khz: 1, nsec: 2n, incarnation: 3, reserved: 0 },
  { name: 'HVM_PARAMS', reserved: 0, params: [{ index: 1n, value: 2n }] },
  { name: 'HVM_CONTEXT', data: page(3) },
] as const;

/** Makes a whole file with slots; page i is full of i + 1, and pfn i is 3 * i. */
function slotFile(count: number, perRecord: number, types?: Uint8Array) {
  const prefix = encodePrefix({ configJson, guestType: 'hvm', xenMajor: 4, xenMinor: 20, staticRecords: [] });
  const layout = SlotLayout.create({ firstRecordOffset: prefix.length, count, perRecord });
  const pfns = Uint32Array.from({ length: count }, (_, i) => 3 * i);
  const suffix = encodeSuffix({ records: state });
  const file = new Uint8Array(layout.end + suffix.length);
  file.set(prefix);
  for (let r = 0; r < layout.recordCount; r++) {
    const { offset, firstIndex: from, count: pages } = layout.record(r);
    const to = from + pages;
    file.set(layout.encodeHead(r, pfns.subarray(from, to), types?.subarray(from, to)), offset);
  }
  for (let i = 0; i < count; i++) file.fill((i + 1) & 255, layout.slotOffset(i), layout.slotOffset(i) + 4096);
  file.set(suffix, layout.end);
  return { file, layout, pfns };
}

describe('slots', () => {
  test.each([0, 1, 2, 509, 510, 511, 1019, 1020, 1021, 1022, 1023, 1030])('%i pages', async (count) => {
    const { file, layout } = slotFile(count, 510);
    const seen: number[] = [];
    for await (const item of readStream(new BufferSource(file))) {
      if (item.kind !== 'libxc-record' || item.record.name !== 'PAGE_DATA') continue;
      const { words } = item.record;
      expect(item.offset % 4096).toBe(0);
      let at = item.offset + 16 + 8 * words.count;
      expect(at % 4096).toBe(0);
      for (let i = 0; i < words.count; i++) {
        if (words.type(i) === PAGE_TYPE.xtab) {
          // A filler: its pfn occurs again, with data, in the same record.
          expect(words.pfn(i)).toBe(3 * layout.record(layout.recordCount - 1).firstIndex);
          continue;
        }
        expect(layout.slotOffset(seen.length)).toBe(at);
        expect(layout.wordOffset(seen.length)).toBe(item.offset + 16 + 8 * i);
        expect(file[at]).toBe((seen.length + 1) & 255);
        seen.push(words.pfn(i));
        at += 4096;
      }
    }
    expect(seen).toEqual(Array.from({ length: count }, (_, i) => 3 * i));
    const { ok, findings, facts } = await verifyStream(new BufferSource(file));
    expect(findings.map(({ code }) => code)).toEqual(count === 0 ? ['RECORD_MISSING'] : []);
    expect(ok).toBe(count > 0);
    expect(facts).toMatchObject({
      complete: true,
      pages: count,
      length: file.length,
      maxPfn: count === 0 ? -1 : 3 * count - 3,
    });
  });

  test('64 GiB are computed, not stored', () => {
    const layout = SlotLayout.create({ firstRecordOffset: 8192, count: 2 ** 24 });
    expect(layout.recordCount).toBe(Math.ceil(2 ** 24 / DEFAULT_PAGES_PER_RECORD));
    expect(layout.slotOffset(2 ** 24 - 1) + 4096).toBe(layout.end);
    expect(layout.slotOffset(DEFAULT_PAGES_PER_RECORD)).toBe(8192 + 2 * 4096 + 1022 * 4096 + 2 * 4096);
    // No more than one page of head for 510 pages.
    expect(layout.end - 8192 - 2 ** 36).toBeLessThan(layout.recordCount * 8192 + 1);
  });

  test('the head of a full record', () => {
    const types = new Uint8Array(510).fill(PAGE_TYPE.notab);
    types[1] = PAGE_TYPE.l4tabPinned;
    const { file, layout } = slotFile(510, 510, types);
    const view = new DataView(file.buffer, layout.start);
    expect([0, 4, 8, 12].map((at) => view.getUint32(at, true))).toEqual([1, 8 + 510 * 4104, 510, 0]);
    expect([16, 24, 32].map((at) => view.getBigUint64(at, true))).toEqual([0n, 0xc000000000000003n, 6n]);
    expect(layout.record(0)).toEqual({
      offset: 4096,
      firstIndex: 0,
      count: 510,
      fillers: 0,
      dataOffset: 8192,
    });
  });

  test.each([
    { firstRecordOffset: 4000, count: 1 },
    { firstRecordOffset: -4096, count: 1 },
    { firstRecordOffset: 0, count: 1.5 },
    { firstRecordOffset: 0, count: -1 },
    { firstRecordOffset: 0, count: 1, perRecord: 512 },
    { firstRecordOffset: 0, count: 1, perRecord: -2 },
    // Slightly more than 128 MiB.
    { firstRecordOffset: 0, count: 1, perRecord: 64 * 512 - 2 },
  ])('%o is refused', (options) => {
    expect(() => SlotLayout.create(options)).toThrow(RangeError);
  });

  test('the longest record is within what libxc reads', () => {
    const layout = SlotLayout.create({ firstRecordOffset: 0, count: 32254, perRecord: 63 * 512 - 2 });
    expect(layout.end - 8).toBeLessThanOrEqual(128 * 2 ** 20);
  });

  test('what does not belong to the layout is refused', () => {
    const layout = SlotLayout.create({ firstRecordOffset: 0, count: 3 });
    const pfns = Uint32Array.of(1, 2, 3);
    expect(() => layout.record(1)).toThrow(RangeError);
    expect(() => layout.slotOffset(3)).toThrow(RangeError);
    expect(() => layout.wordOffset(-1)).toThrow(RangeError);
    expect(() => layout.encodeHead(0, pfns.subarray(1))).toThrow(RangeError);
    expect(() => layout.encodeHead(0, pfns, Uint8Array.of(0, 0))).toThrow(RangeError);
    expect(() => layout.encodeHead(0, pfns, Uint8Array.of(0, PAGE_TYPE.xtab, 0))).toThrow(RangeError);
    expect(() => layout.encodeHead(0, pfns, Uint8Array.of(0, 5, 0))).toThrow(RangeError);
  });
});

test.each([0, 1, 100, 3900, 4095, 4096, 5000])(
  'a prefix ends at a page boundary, whatever the JSON (%i more)',
  async (more) => {
    const json = `{"x":"${'y'.repeat(more)}"}\n`;
    const prefix = encodePrefix({
      configJson: json,
      guestType: 'pv',
      xenMajor: 4,
      xenMinor: 17,
      staticRecords: [{ name: 'X86_PV_INFO', guestWidth: 8, ptLevels: 4, reserved1: 0, reserved2: 0 }],
      startRecords: [{ name: 'X86_PV_P2M_FRAMES', startPfn: 0, endPfn: 1, frames: BigUint64Array.of(9n) }],
    });
    expect(prefix.length % 4096).toBe(0);
    const { facts } = await verifyStream(new BufferSource(prefix));
    expect(facts).toMatchObject({
      configText: json,
      guestType: 'pv',
      xen: { major: 4, minor: 17 },
      length: prefix.length,
    });
    expect(facts.records.map(({ name }) => name)).toEqual([
      'LIBXC_CONTEXT',
      'X86_PV_INFO',
      'STATIC_DATA_END',
      'X86_PV_P2M_FRAMES',
    ]);
  },
);

describe('amendments', () => {
  test('are ordinary records', () => {
    const pages = new Uint8Array(8192);
    pages.fill(1, 0, 4096);
    pages.fill(2, 4096);
    expect(encodeAmendment([5, 6, 7], [0, 0xf, 9], pages)).toEqual(pageData([5, 0, 1], [6, 0xf], [7, 9, 2]));
  });

  test.each<[string, number[], number[], number]>([
    ['too few pages', [1, 2], [0, 0], 4096],
    ['pages for none', [1], [0xf], 4096],
    ['no entry', [], [], 0],
    ['lists of different length', [1], [], 4096],
    ['an unknown type', [1], [5], 4096],
    ['a pfn of 53 bits', [2 ** 52], [0], 4096],
  ])('%s: refused', (_, pfns, types, length) => {
    expect(() => encodeAmendment(pfns, types, new Uint8Array(length))).toThrow(RangeError);
  });
});

test('a pfn word has its type in bits 60-63 and its pfn in 0-51', () => {
  const words = new PfnWords(Uint8Array.of(0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf8, 0xc7));
  expect(words.pfn(0)).toBe(0x89abc12345678);
  expect(words.type(0)).toBe(0xc);
  expect(words.reserved(0)).toBe(0x7f);
  words.set(0, 2 ** 52 - 1, 0xf);
  expect(words.bytes).toEqual(Uint8Array.of(255, 255, 255, 255, 255, 255, 0x0f, 0xf0));
});
