import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { BufferSink } from '../../../src/core/byte-sink.ts';
import { BufferSource, StreamSource } from '../../../src/core/byte-source.ts';
import { XlsnapError } from '../../../src/core/errors.ts';
import { RecordError, StreamError } from '../../../src/savefmt/errors.ts';
import type { StreamFormat } from '../../../src/savefmt/items.ts';
import { readStream, readXlHeader } from '../../../src/savefmt/reader.ts';
import { verifyStream } from '../../../src/savefmt/verify.ts';
import { StreamWriter } from '../../../src/savefmt/writer.ts';
import { xlConfigText } from '../../../src/savefmt/xl-header.ts';
import {
  configJson,
  hexBytes,
  hvmContext,
  hvmFile,
  hvmState,
  join,
  libxcHeaders,
  libxlHeader,
  pageData,
  pvContext,
  record,
  saveFile,
  u32,
  xlHeader,
} from '../../support/naive-stream.ts';

/** Summarises what the reader yields, pages included. */
async function names(bytes: Uint8Array, format: StreamFormat = 'xl'): Promise<string[]> {
  const seen: string[] = [];
  for await (const item of readStream(new BufferSource(bytes), { format })) {
    seen.push('record' in item ? item.record.name : item.kind);
  }
  return seen;
}

async function copy(bytes: Uint8Array, format: StreamFormat = 'xl'): Promise<Uint8Array> {
  const sink = new BufferSink();
  const writer = new StreamWriter(sink, format);
  for await (const item of readStream(new BufferSource(bytes), { format })) await writer.write(item);
  expect(writer.done).toBe(true);
  return sink.bytes();
}

const streams: [string, Uint8Array, StreamFormat][] = [
  ['HVM file', hvmFile(), 'xl'],
  ['PV file', saveFile(pvContext()), 'xl'],
  ['bare HVM stream of version 2', hvmContext(2), 'libxc'],
  ['bare PV stream of version 2', pvContext(2), 'libxc'],
];

describe.each(streams)('%s', (_, bytes, format) => {
  test('is written back byte for byte', async () => {
    expect(Buffer.compare(await copy(bytes, format), bytes)).toBe(0);
  });

  test('has no findings', async () => {
    const { findings, ok, facts } = await verifyStream(new BufferSource(bytes), { format });
    expect(findings).toEqual([]);
    expect(ok).toBe(true);
    expect(facts).toMatchObject({ complete: true, length: bytes.length });
  });

  test('is reported as truncated if it is cut off anywhere', async () => {
    // Every cut near a boundary of items, and some inside the pages.
    const cuts = new Set<number>();
    for await (const { offset } of readStream(new BufferSource(bytes), { format })) {
      for (let at = offset - 9; at < offset + 40; at++) cuts.add(at);
    }
    for (let at = 0; at < bytes.length; at += 997) cuts.add(at);
    for (const cut of cuts) {
      if (cut < 0 || cut >= bytes.length) continue;
      const error = await names(bytes.subarray(0, cut), format).catch((thrown: unknown) => thrown);
      expect(error, `cut at ${cut}`).toBeInstanceOf(StreamError);
      expect(error).toMatchObject({ code: 'TRUNCATED', exitCode: 9 });
      expect((error as StreamError).offset).toBeLessThanOrEqual(cut);
      const report = await verifyStream(new BufferSource(bytes.subarray(0, cut)), { format });
      expect(report).toMatchObject({ ok: false, facts: { complete: false } });
      expect(report.facts.length).toBeLessThanOrEqual(cut);
    }
  });
});

test('a small file can be chunked at every byte', async () => {
  const bytes = saveFile(join(libxcHeaders(2), record(0x10), ...hvmState, record(0)));
  for (let cut = 0; cut < bytes.length; cut++) {
    await expect(names(bytes.subarray(0, cut))).rejects.toMatchObject({ code: 'TRUNCATED' });
  }
  expect((await names(bytes)).at(-1)).toBe('END');
});

test('a file that ends within the pages says so', async () => {
  const bytes = join(libxcHeaders(2), record(0x10), pageData([0, 0, 1], [1, 0, 2]));
  await expect(names(bytes.subarray(0, -1), 'libxc')).rejects.toMatchObject({
    code: 'TRUNCATED',
    offset: 80,
    data: { expected: '8192 bytes', got: '8191' },
    message: expect.stringContaining('pages of PAGE_DATA'),
  });
});

test('the formats are nested', async () => {
  expect(await names(hvmFile())).toEqual([
    'xl-header',
    'libxl-header',
    'LIBXC_CONTEXT',
    'libxc-headers',
    'X86_CPUID_POLICY',
    'X86_MSR_POLICY',
    'STATIC_DATA_END',
    'PAGE_DATA',
    'PAGE_DATA',
    'X86_TSC_INFO',
    'HVM_CONTEXT',
    'HVM_PARAMS',
    'END',
    'EMULATOR_XENSTORE_DATA',
    'EMULATOR_CONTEXT',
    'END',
  ]);
});

test('a checkpointed stream alternates between libxl and libxc', async () => {
  const bytes = saveFile(
    join(
      libxcHeaders(2),
      record(0x10),
      pageData([0, 0, 1]),
      ...hvmState,
      record(0xe),
      record(3, [...u32(2), ...u32(0), 1]),
      record(4),
      pageData([0, 0, 2]),
      ...hvmState,
      record(0),
    ),
  );
  expect((await names(bytes)).slice(4)).toEqual([
    'STATIC_DATA_END',
    'PAGE_DATA',
    'X86_TSC_INFO',
    'HVM_CONTEXT',
    'HVM_PARAMS',
    'CHECKPOINT',
    'EMULATOR_CONTEXT',
    'CHECKPOINT_END',
    'PAGE_DATA',
    'X86_TSC_INFO',
    'HVM_CONTEXT',
    'HVM_PARAMS',
    'END',
    'END',
  ]);
  expect(await copy(bytes)).toEqual(bytes);
  expect((await verifyStream(new BufferSource(bytes))).findings).toEqual([]);
});

test('pages come in bounded chunks, and what is not read is skipped', async () => {
  const entries = Array.from({ length: 600 }, (_, i): [number, number, number] => [i, 0, i & 255]);
  const bytes = join(libxcHeaders(2), record(0x10), pageData(...entries), pageData([9, 0, 9]), record(0));
  const sizes: number[] = [];
  let firstOfSecond: number | undefined;
  for await (const item of readStream(new BufferSource(bytes), { format: 'libxc' })) {
    if (item.kind !== 'libxc-record' || item.record.name !== 'PAGE_DATA') continue;
    for await (const chunk of item.record.pages) {
      if (item.record.words.count === 1) firstOfSecond = chunk[0];
      sizes.push(chunk.length);
      if (sizes.length === 2) break;
    }
  }
  expect(sizes).toEqual([256 * 4096, 256 * 4096, 4096]);
  expect(firstOfSecond).toBe(9);
});

test('pages cannot be read after the next item', async () => {
  const items = readStream(new BufferSource(hvmFile()));
  let pages: AsyncIterable<Uint8Array> | undefined;
  for await (const item of items) {
    if (item.kind === 'libxc-record' && item.record.name === 'PAGE_DATA') pages ??= item.record.pages;
  }
  await expect(pages?.[Symbol.asyncIterator]().next()).rejects.toThrow(TypeError);
});

test('a false length costs no memory', async () => {
  const bytes = join(libxcHeaders(2), Uint8Array.from([...u32(0x9), ...u32(128 * 2 ** 20)]));
  async function* chunks(): AsyncGenerator<Uint8Array> {
    yield bytes;
  }
  const before = process.memoryUsage().arrayBuffers;
  await expect(
    (async () => {
      for await (const _ of readStream(new StreamSource(chunks()), { format: 'libxc' }));
    })(),
  ).rejects.toMatchObject({ code: 'TRUNCATED' });
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 20);
});

test('reading the header alone leaves the source at the stream', async () => {
  const source = new BufferSource(hvmFile());
  expect(xlConfigText(await readXlHeader(source))).toBe(configJson);
  expect(await source.read(16)).toEqual(libxlHeader);
});

test('an abort ends reading', async () => {
  const signal = AbortSignal.abort('enough');
  const items = readStream(new BufferSource(hvmFile()), { signal });
  await expect(items.next()).rejects.toMatchObject({ code: 'INTERRUPTED' });
});

describe('damaged fields', () => {
  const file = hvmFile();
  const xl = xlHeader().length;
  const libxc = xl + 16 + 8;
  const first = libxc + 40;

  function spoil(at: number, ...bytes: number[]): Uint8Array {
    const spoilt = file.slice();
    spoilt.set(bytes, at);
    return spoilt;
  }

  test.each<[string, number, number[], string, number]>([
    ['xl magic', 5, [0], 'XL_MAGIC', 0],
    ['xl byte order', 32, [1, 2, 3, 4], 'BIG_ENDIAN', 32],
    ['unknown mandatory flag', 36, [7], 'XL_FLAGS', 36],
    ['legacy stream', 36, [1], 'XL_LEGACY', 36],
    ['length of the optional data', 47, [1], 'XL_CONFIG_LENGTH', 44],
    ['length of the configuration', 50, [1], 'XL_CONFIG_LENGTH', 48],
    ['libxl ident', xl, [0], 'LIBXL_IDENT', xl],
    ['libxl version', xl + 11, [3], 'LIBXL_VERSION', xl + 8],
    ['libxl endianness', xl + 15, [1], 'BIG_ENDIAN', xl + 12],
    ['libxl record type', xl + 16, [6], 'RECORD_UNKNOWN', xl + 16],
    ['length of LIBXC_CONTEXT', xl + 20, [8], 'RECORD_SIZE', xl + 16],
    ['marker', libxc, [0], 'LIBXC_MARKER', libxc],
    ['id', libxc + 8, [0], 'LIBXC_ID', libxc + 8],
    ['version 4', libxc + 15, [4], 'LIBXC_VERSION', libxc + 12],
    ['version 1', libxc + 15, [1], 'LIBXC_VERSION', libxc + 12],
    ['endianness', libxc + 17, [1], 'BIG_ENDIAN', libxc + 16],
    ['guest type', libxc + 24, [3], 'DOMAIN_TYPE', libxc + 24],
    ['page shift', libxc + 28, [13], 'PAGE_SHIFT', libxc + 28],
    ['record type', first, [0x13], 'RECORD_UNKNOWN', first],
    ['record length', first + 4, [0, 0, 0, 9], 'RECORD_LENGTH', first],
    ['length of a policy', first + 4, [16], 'RECORD_SIZE', first],
  ])('%s', async (_, at, bytes, code, offset) => {
    const error = await names(spoil(at, ...bytes)).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(XlsnapError);
    expect(error).toMatchObject({ code, offset, exitCode: 9 });
    const { ok, findings } = await verifyStream(new BufferSource(spoil(at, ...bytes)));
    expect(ok).toBe(false);
    expect(findings.at(-1)).toMatchObject({ severity: 'error', code, offset });
  });

  test.each([
    [[0x1f, 0x8b], 'it is compressed with gzip', 'gunzip'],
    [[0x28, 0xb5, 0x2f, 0xfd], 'it is compressed with zstd', 'unzstd'],
    [[0x51, 0x46, 0x49, 0xfb], 'it is a qcow2 image', '.save'],
    [[0x51, 0x46, 0x49, 0xfc], 'wrong magic number', 'xl save'],
  ])('what is taken for a save file is named: %j', async (bytes, message, hint) => {
    const error = (await names(spoil(0, ...bytes)).catch((thrown: unknown) => thrown)) as XlsnapError;
    expect(error).toMatchObject({ code: 'XL_MAGIC', message: expect.stringContaining(message) });
    expect(error.hint).toContain(hint);
  });

  const head = [...libxcHeaders(2), ...record(0x10)];
  test.each<[string, number[], string, number]>([
    ['no room for the count', [...u32(4), 0, 0, 0, 0, 0, 0, 0, 0], 'RECORD_SIZE', 48],
    ['no entries', [...u32(8), ...u32(0), ...u32(0)], 'RECORD_COUNT', 56],
    ['more entries than room', [...u32(16), ...u32(2), ...u32(0), ...u32(0), ...u32(0)], 'RECORD_COUNT', 56],
    [
      '2^32 - 1 entries',
      [...u32(16), ...u32(0xffffffff), ...u32(0), ...u32(0), ...u32(0)],
      'RECORD_COUNT',
      56,
    ],
    ['reserved type', [...u32(16), ...u32(1), ...u32(0), ...u32(0), 0, 0, 0, 0x80], 'PAGE_TYPE', 64],
    ['page missing', [...u32(16), ...u32(1), ...u32(0), ...u32(0), 0, 0, 0, 0], 'RECORD_SIZE', 48],
    [
      'body beyond the pages',
      [...u32(24), ...u32(1), ...u32(0), ...u32(0), 0, 0, 0, 0xf0, ...u32(0), ...u32(0)],
      'RECORD_SIZE',
      48,
    ],
  ])('PAGE_DATA: %s', async (_, rest, code, offset) => {
    const bytes = Uint8Array.from([...head, ...u32(1), ...rest]);
    const error = await names(bytes, 'libxc').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RecordError);
    expect(error).toMatchObject({ code, offset, data: { record: 'PAGE_DATA' } });
  });
});

test('an unknown optional record, odd padding and reserved bits survive', async () => {
  const bytes = join(
    libxcHeaders(2).fill(0xff, 18, 24),
    record(0x10),
    hexBytes('05000080 03000000 010203 ffeeddccbb'),
    pageData([0, 0, 1]).fill(0x77, 12, 16).fill(0xf0, 22, 23),
    ...hvmState,
    record(0),
  );
  expect(Buffer.compare(await copy(bytes, 'libxc'), bytes)).toBe(0);
  const { ok, findings } = await verifyStream(new BufferSource(bytes), { format: 'libxc' });
  expect(ok).toBe(true);
  expect(findings.map(({ code, offset }) => [code, offset])).toEqual([
    ['RESERVED', 0],
    ['PADDING', 48],
    ['RESERVED', 64],
    ['RESERVED', 80],
  ]);
});

describe('real files of Xen 4.20, cut down', () => {
  test.each([
    ['pv', 54, 'pv'],
    ['pvh', 13, 'hvm'],
    ['hvm', 13, 'hvm'],
  ])('%s', async (name, pages, guestType) => {
    const bytes = gunzipSync(readFileSync(`fixtures/savefmt/${name}.xlsave.gz`));
    expect(Buffer.compare(await copy(bytes), bytes)).toBe(0);
    const { findings, facts } = await verifyStream(new BufferSource(bytes));
    expect(findings).toEqual([]);
    expect(facts).toMatchObject({
      complete: true,
      pages,
      guestType,
      xen: { major: 4, minor: 20 },
      version: 3,
    });
    expect(facts.config).toMatchObject({ c_info: { type: name } });
  });
});
