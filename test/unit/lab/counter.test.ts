import { describe, expect, it } from 'vitest';
import {
  decodeDirtyPage,
  decodeDisk,
  decodePage,
  decodeSector,
  diskSpan,
  findPages,
  parseConsole,
  slotCount,
} from '../../../lab/counter.ts';

const BOOT = '000102030405060708090a0b0c0d0e0f';

/** FNV-1a, 64 bits: the published value of "a" is below. */
function fnv(bytes: Uint8Array): bigint {
  return bytes.reduce(
    (hash, byte) => BigInt.asUintN(64, (hash ^ BigInt(byte)) * 1099511628211n),
    14695981039346656037n,
  );
}

it('the checksum is the published one', () => {
  expect(fnv(new TextEncoder().encode('a'))).toBe(0xaf63dc4c8601ec8cn);
});

// As struct sector and struct page of guest/counter.c have it.
function sector(number: number, index: number, boot = BOOT, disk = 1): Buffer {
  const bytes = Buffer.alloc(512);
  bytes.write('XLSNAPSC', 0, 'latin1');
  bytes.writeUInt32LE(1, 8);
  bytes.writeUInt32LE(disk, 12);
  bytes.write(boot, 16, 'hex');
  bytes.writeBigUInt64LE(BigInt(number), 32);
  bytes.writeBigUInt64LE(12345n, 40);
  bytes.writeBigUInt64LE(BigInt(index), 48);
  bytes.writeBigUInt64LE(fnv(bytes.subarray(0, 504)), 504);
  return bytes;
}

/** A disk after all ticks up to `last`. */
function disk(last: number, boot = BOOT): Buffer {
  const bytes = Buffer.alloc(diskSpan);
  for (let n = Math.max(1, last - slotCount + 1); n <= last; n++) {
    const index = 1 + (n % slotCount);
    sector(n, index, boot).copy(bytes, index * 512);
  }
  sector(last, 0, boot).copy(bytes, 0);
  return bytes;
}

function page(...records: { seq: number; started: number; done: number }[]): Buffer {
  const bytes = Buffer.alloc(4096);
  bytes.write('XLSNAPCT', 0, 'latin1');
  bytes.write(BOOT, 16, 'hex');
  for (const [i, { seq, started, done }] of records.entries()) {
    const at = 64 + 64 * i;
    [seq, started, done, 11, 22].forEach((value, word) => {
      bytes.writeBigUInt64LE(BigInt(value), at + 8 * word);
    });
    bytes.writeUInt32LE(2, at + 40);
    bytes.writeBigUInt64LE(fnv(bytes.subarray(at, at + 56)), at + 56);
  }
  return bytes;
}

describe('a sector', () => {
  it('is decoded', () => {
    expect(decodeSector(sector(7, 3))).toEqual({
      letter: 'b',
      boot: BOOT,
      number: 7,
      realNs: 12345n,
      index: 3,
    });
  });

  it('is refused if it is torn', () => {
    for (const at of [0, 32, 300, 511]) {
      const torn = sector(7, 3);
      torn[at] = (torn[at] ?? 0) ^ 1;
      expect(decodeSector(torn)).toBeUndefined();
    }
    expect(decodeSector(sector(7, 3).subarray(1))).toBeUndefined();
  });
});

describe('a disk', () => {
  it.each([1, 5, 64, 65, 1000])('after %i ticks is complete', (last) => {
    expect(decodeDisk(disk(last))).toMatchObject({ head: { number: last }, problems: [] });
  });

  it('is complete if its last slot is not written yet', () => {
    const bytes = disk(100);
    const index = 1 + (100 % slotCount);
    sector(100 - slotCount, index).copy(bytes, index * 512);
    expect(decodeDisk(bytes)?.problems).toEqual([]);
  });

  it('has a problem if a write in between was lost', () => {
    const bytes = disk(100);
    const index = 1 + (90 % slotCount);
    sector(90 - slotCount, index).copy(bytes, index * 512);
    expect(decodeDisk(bytes)?.problems).toEqual([`sector ${index} should hold 90, holds 26`]);
    bytes.fill(0, index * 512, (index + 1) * 512);
    expect(decodeDisk(bytes)?.problems).toEqual([`sector ${index} should hold 90, holds nothing`]);
  });

  it('has a problem if it has a write of the future', () => {
    const bytes = disk(100);
    const index = 1 + (101 % slotCount);
    sector(101, index).copy(bytes, index * 512);
    expect(decodeDisk(bytes)?.problems).toEqual([`sector ${index} holds 101, the head sector only 100`]);
  });

  it('is judged by its present life only', () => {
    const bytes = disk(100, 'ff'.repeat(16));
    bytes.fill(0, 512 * (1 + (100 % slotCount)), 512 * (2 + (100 % slotCount)));
    for (const n of [101, 102]) sector(n, 1 + (n % slotCount)).copy(bytes, 512 * (1 + (n % slotCount)));
    sector(102, 0).copy(bytes, 0);
    expect(decodeDisk(bytes)?.problems).toEqual([]);
  });

  it('is refused if it is blank', () => {
    expect(decodeDisk(Buffer.alloc(diskSpan))).toBeUndefined();
  });
});

describe('the page', () => {
  it('is decoded from its newer complete record', () => {
    const both = page({ seq: 8, started: 5, done: 5 }, { seq: 9, started: 6, done: 5 });
    expect(decodePage(both)).toEqual({
      boot: BOOT,
      started: 6,
      done: 5,
      monotonicNs: 11n,
      realNs: 22n,
      disks: 2,
    });
    both[130] = 1;
    expect(decodePage(both)).toMatchObject({ started: 5 });
    both[66] = 1;
    expect(decodePage(both)).toBeUndefined();
  });

  it('is found at any offset, in order', () => {
    const first = page({ seq: 1, started: 1, done: 1 });
    const second = page({ seq: 2, started: 2, done: 1 });
    const bytes = Buffer.concat([Buffer.from('xXLSNAPCT'), first, Buffer.alloc(13), second]);
    expect(findPages(bytes.subarray(1)).map(({ started }) => started)).toEqual([1, 2]);
  });
});

it('a dirty page is decoded if it is complete', () => {
  const bytes = Buffer.alloc(4096, 0x5a);
  bytes.write('XLSNAPDP', 0, 'latin1');
  bytes.writeUInt32LE(17, 12);
  bytes.write(BOOT, 16, 'hex');
  bytes.writeBigUInt64LE(3n, 32);
  let sum = 14695981039346656037n;
  for (let at = 0; at < 4088; at += 8) {
    sum = BigInt.asUintN(64, (sum ^ bytes.readBigUInt64LE(at)) * 1099511628211n);
  }
  bytes.writeBigUInt64LE(sum, 4088);
  expect(decodeDirtyPage(bytes)).toEqual({ index: 17, generation: 3, boot: BOOT });
  bytes[2000] = 0;
  expect(decodeDirtyPage(bytes)).toBeUndefined();
});

it('the console is parsed', () => {
  const report = parseConsole(
    [
      '[    1.0] kernel says TICK n=1',
      `GUEST-UP type=pvh counter=40 boot=${BOOT} disks=xvda:40,xvdb:blank\r`,
      'TICK n=41 disks=2 bad=0 up=1.5 clk=1700000000.25 gap_ms=101.5 gap_real_ms=-3\r',
      'TICK n=42 disks=2 bad=0 up=1.6 clk=17000', // cut off
      'MISMATCH xvda 41 40',
      `GUEST-UP type=pv counter=0 boot=${BOOT} disks=none`,
    ].join('\n'),
  );
  expect(report.up).toEqual([
    {
      type: 'pvh',
      counter: 40,
      boot: BOOT,
      disks: new Map([
        ['xvda', 40],
        ['xvdb', undefined],
      ]),
    },
    { type: 'pv', counter: 0, boot: BOOT, disks: new Map() },
  ]);
  expect(report.ticks).toEqual([
    { n: 41, disks: 2, bad: 0, up: 1.5, clock: 1700000000.25, gapMs: 101.5, gapRealMs: -3 },
  ]);
  expect(report.complaints).toEqual(['MISMATCH xvda 41 40']);
});
