import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { toDomid } from '../../../src/core/brand.ts';
import { LIBC } from '../../../src/xenctrl/declarations.ts';
import { ForeignMemory, runsOfData } from '../../../src/xenctrl/foreign-memory.ts';
import { bind, type NativeArgument, type NativeFunction } from '../../../src/xenctrl/native.ts';

const PAGE = 4096;
const DOMID = toDomid(5);
const EINTR = 4;
const ENOSPC = 28;

const libc = koffi.load(null);
const mmap = libc.func('mmap', 'void *', ['void *', 'size_t', 'int', 'int', 'int', 'int64_t']);
const munmap = libc.func('munmap', 'int', ['void *', 'size_t']);
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

let directory: string;
let fd: number;
/** What the "guest" has at a gfn: a fill octet. */
let fill: (gfn: number) => number;
/** A gfn whose last octet is 1. */
let last: number | undefined;
/** Negated errnos of gfns that cannot be mapped. */
let failing: Map<number, number>;
let mapped: number;
let mapErrno: number;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-foreign-'));
  fd = openSync(join(directory, 'f'), 'w+');
  fill = (gfn) => gfn % 256;
  failing = new Map();
  last = undefined;
  mapped = 0;
  mapErrno = 0;
});
afterEach(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

function fn(name: string, body: (...args: NativeArgument[]) => [number | bigint, number]): NativeFunction {
  const callHere = (...args: NativeArgument[]) => {
    const [value, errno] = body(...args);
    return { value, errno };
  };
  return {
    name,
    callHere,
    call: async (...args) => callHere(...args),
    callFast: (...args) => callHere(...args).value,
  };
}

/** Foreign memory over anonymous mappings of this process. */
function memory(pwrite: NativeFunction = bind(koffi, LIBC).pwrite): ForeignMemory {
  return new ForeignMemory(
    koffi,
    {
      xenforeignmemory_map: fn('map', (_handle, _domid, _prot, pages, words, errors) => {
        if (mapErrno !== 0) return [0n, mapErrno];
        const length = Number(pages) * PAGE;
        const address: bigint = mmap(null, length, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
        const bytes = new Uint8Array(koffi.view(address, length));
        for (let i = 0; i < Number(pages); i++) {
          const gfn = (words as Uint32Array)[2 * i] ?? 0;
          bytes.fill(fill(gfn), i * PAGE, (i + 1) * PAGE);
          if (gfn === last) bytes[(i + 1) * PAGE - 1] = 1;
          (errors as Int32Array)[i] = failing.get(gfn) ?? 0;
        }
        mapped++;
        return [address, 0];
      }),
      xenforeignmemory_unmap: fn('unmap', (_handle, address, pages) => {
        mapped--;
        return [munmap(address, Number(pages) * PAGE), 0];
      }),
    },
    pwrite,
    1n,
  );
}

/** Places one after the other, from `position` on. */
function places(count: number, position = 0): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => position + i * PAGE);
}

describe('runsOfData', () => {
  // x: data, the others have none; |: the next page stands elsewhere in the file.
  test.each([
    ['', []],
    ['....', []],
    ['x', [[0, 1]]],
    [
      '.x.xx',
      [
        [1, 2],
        [3, 5],
      ],
    ],
    [
      'xx..x',
      [
        [0, 2],
        [4, 5],
      ],
    ],
    [
      'xx|x|.x',
      [
        [0, 2],
        [2, 3],
        [4, 5],
      ],
    ],
  ])('%s', (pattern, runs) => {
    const kinds = Uint8Array.from(pattern.replaceAll('|', ''), (page) => (page === 'x' ? 0 : 1));
    const positions: number[] = [];
    let position = 0;
    for (const character of pattern) {
      if (character !== '|') positions.push(position);
      position += PAGE;
    }
    expect([...runsOfData(kinds, Float64Array.from(positions))].map(({ from, to }) => [from, to])).toEqual(
      runs,
    );
  });
});

describe('copyPages', () => {
  test('writes data, leaves holes for zeros, and unmaps', async () => {
    // 30 pages in one go for a thread, single ones in this thread.
    const gfns = Uint32Array.from({ length: 64 }, (_, i) => 0x1000 + i);
    fill = (gfn) => (gfn < 0x101e || gfn % 2 === 1 ? (gfn & 0xff) + 1 : 0);
    const outcome = await memory().copyPages(DOMID, gfns, places(64, 8192), fd, true);
    expect(outcome).toEqual({ zero: 17, unmapped: [] });
    expect(mapped).toBe(0);
    const file = readFileSync(join(directory, 'f'));
    for (const [i, gfn] of gfns.entries()) {
      const page = file.subarray(8192 + i * PAGE, 8192 + (i + 1) * PAGE);
      expect(page.equals(Buffer.alloc(PAGE, fill(gfn))), `gfn ${gfn}`).toBe(true);
    }
  });

  test('sees an octet anywhere in a page, and puts each page in its place', async () => {
    fill = () => 0;
    last = 9;
    const positions = Float64Array.of(5 * PAGE, 2 * PAGE, 3 * PAGE);
    const outcome = await memory().copyPages(DOMID, Uint32Array.of(7, 8, 9), positions, fd, true);
    expect(outcome).toEqual({ zero: 2, unmapped: [] });
    const file = readFileSync(join(directory, 'f'));
    expect(file).toHaveLength(4 * PAGE);
    expect([file[4 * PAGE - 1], file.indexOf(1)]).toEqual([1, 4 * PAGE - 1]);
  });

  test('batches side by side write one after the other, and one that fails does not stop the next', async () => {
    const real = bind(koffi, LIBC).pwrite;
    let writing = 0;
    const pwrite = fn('pwrite', () => [-1, ENOSPC]);
    const slow: NativeFunction = {
      ...pwrite,
      callFast: (...args) => (args[3] === 0 ? -1 : real.callFast(...args)),
      call: async (...args) => {
        expect(writing++).toBe(0);
        await new Promise((resolve) => setTimeout(resolve, 10));
        writing--;
        return pwrite.callHere(...args);
      },
    };
    const foreign = memory(slow);
    const both = await Promise.allSettled(
      [0, 1, 0].map((at) => foreign.copyPages(DOMID, Uint32Array.of(5), places(1, at * PAGE), fd, true)),
    );
    expect(both.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'rejected']);
    expect(mapped).toBe(0);
  });

  test('writes zeros too when not sparse', async () => {
    fill = () => 0;
    const outcome = await memory().copyPages(DOMID, Uint32Array.of(1, 2, 3), places(3), fd, false);
    expect(outcome).toEqual({ zero: 0, unmapped: [] });
    expect(readFileSync(join(directory, 'f'))).toHaveLength(3 * PAGE);
  });

  test('a page that cannot be mapped is named, never touched, and the others are written', async () => {
    failing.set(7, -22);
    const outcome = await memory().copyPages(DOMID, Uint32Array.of(6, 7, 8), places(3), fd, true);
    expect(outcome).toEqual({ zero: 0, unmapped: [7] });
    expect(mapped).toBe(0);
    const file = readFileSync(join(directory, 'f'));
    expect([file[0], file[PAGE], file[2 * PAGE]]).toEqual([6, 0, 8]);
  });

  test('a mapping that fails as a whole', async () => {
    mapErrno = 3;
    await expect(memory().copyPages(DOMID, Uint32Array.of(1), places(1), fd, true)).rejects.toMatchObject({
      data: { errno: 'ESRCH' },
    });
  });

  test('goes on after short and interrupted writes', async () => {
    const real = bind(koffi, LIBC).pwrite;
    let calls = 0;
    const pwrite = fn('pwrite', (file = 0, address = 0n, length = 0, position = 0) => {
      if (calls++ % 2 === 0) return [-1, EINTR];
      const { value, errno } = real.callHere(file, address, Math.min(Number(length), 1000), position);
      return [value, errno];
    });
    await memory(pwrite).copyPages(DOMID, Uint32Array.of(5, 6), places(2, PAGE), fd, true);
    const file = readFileSync(join(directory, 'f'));
    expect(file.subarray(PAGE).equals(Buffer.concat([Buffer.alloc(PAGE, 5), Buffer.alloc(PAGE, 6)]))).toBe(
      true,
    );
    expect(calls).toBe(18);
  });

  test('a full disk is an OutputError with the offset', async () => {
    const pwrite = fn('pwrite', () => [-1, ENOSPC]);
    await expect(
      memory(pwrite).copyPages(DOMID, Uint32Array.of(5), places(1, 3 * PAGE), fd, true),
    ).rejects.toMatchObject({
      code: 'OUTPUT_WRITE',
      exitCode: 12,
      offset: 3 * PAGE,
      data: { errno: 'ENOSPC' },
      hint: expect.stringContaining('make room'),
    });
    expect(mapped).toBe(0);
  });
});
