import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, write } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { xxhash3 } from 'hash-wasm';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { toDomid } from '../../../src/core/brand.ts';
import { LIBC, XXHASH } from '../../../src/xenctrl/declarations.ts';
import {
  ForeignMemory,
  type ForeignMemoryOptions,
  type WriteFd,
} from '../../../src/xenctrl/foreign-memory.ts';
import { bind, type NativeArgument, type NativeFunction } from '../../../src/xenctrl/native.ts';

const PAGE = 4096;
const DOMID = toDomid(5);

const libc = koffi.load(null);
const mmap = libc.func('mmap', 'void *', ['void *', 'size_t', 'int', 'int', 'int', 'int64_t']);
const mprotect = libc.func('mprotect', 'int', ['void *', 'size_t', 'int']);
const munmap = libc.func('munmap', 'int', ['void *', 'size_t']);
const libcFunctions = bind(koffi, LIBC);
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

let directory: string;
let fd: number;
/** The fill byte of the "guest's" page at a gfn. */
let fill: (gfn: number) => number;
/** A gfn whose last byte is 1. */
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
function memory(options: ForeignMemoryOptions = {}, memcmp = libcFunctions.memcmp): ForeignMemory {
  return new ForeignMemory(
    koffi,
    {
      ...libcFunctions,
      memcmp,
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
          // Touching it kills the process, as it does on Xen.
          if (failing.has(gfn)) mprotect(address + BigInt(i * PAGE), PAGE, 0);
        }
        mapped++;
        return [address, 0];
      }),
      xenforeignmemory_unmap: fn('unmap', (_handle, address, pages) => {
        mapped--;
        return [munmap(address, Number(pages) * PAGE), 0];
      }),
    },
    1n,
    options,
  );
}

const real: WriteFd = promisify(write);
const diskFull = Object.assign(new Error('no space left'), { code: 'ENOSPC' });

const HEAD = 100;

/** Makes a head in which each byte is the kind of a page, followed by 9. */
function head(kinds: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEAD).fill(9);
  bytes.set(kinds.subarray(0, HEAD));
  return bytes;
}

function range(from: number, count: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => from + i);
}

const DATA = 0;
const ZERO = 1;
const UNMAPPED = 2;

/** Packs pages, and waits until they are written. */
async function pack(
  foreign: ForeignMemory,
  ...args: Parameters<ForeignMemory['packPages']>
): Promise<{ readonly kinds: Uint8Array; readonly sum: string | undefined }> {
  const { kinds, written } = await foreign.packPages(...args);
  return { kinds, sum: await written };
}

describe('packPages', () => {
  test('writes a head that depends on the kinds, then the pages with data back to back, and unmaps', async () => {
    const gfns = range(0x1000, 300);
    fill = (gfn) => (gfn < 0x101e || gfn % 2 === 1 ? (gfn & 0x7f) + 1 : 0);
    const { kinds } = await pack(memory(), DOMID, gfns, fd, 8192, head);
    expect(kinds).toEqual(Uint8Array.from(gfns, (gfn) => (fill(gfn) === 0 ? ZERO : DATA)));
    expect(mapped).toBe(0);
    const file = readFileSync(join(directory, 'f'));
    const pages = [...gfns].filter((gfn) => fill(gfn) !== 0).map((gfn) => Buffer.alloc(PAGE, fill(gfn)));
    expect(file.equals(Buffer.concat([Buffer.alloc(8192), head(kinds), ...pages]))).toBe(true);
  });

  test('sees a byte anywhere in a page', async () => {
    fill = () => 0;
    last = 9;
    const { kinds } = await pack(memory(), DOMID, Uint32Array.of(7, 8, 9), fd, 0, head);
    expect([...kinds]).toEqual([ZERO, ZERO, DATA]);
    const file = readFileSync(join(directory, 'f'));
    expect(file).toHaveLength(HEAD + PAGE);
    expect(file.indexOf(1, 3)).toBe(HEAD + PAGE - 1);
  });

  for (const odd of [0, 1, 63, 64, 127, 510, 511, 512, 1020, 1021]) {
    test(`finds zeros in long stretches: all but page ${odd} of a record`, async () => {
      fill = () => 0;
      last = odd;
      const gfns = range(0, 1022);
      const { kinds } = await pack(memory(), DOMID, gfns, fd, 0, head);
      expect([...gfns].filter((i) => kinds[i] === DATA)).toEqual([odd]);
      expect(kinds.every((kind, i) => i === odd || kind === ZERO)).toBe(true);
      // The same, where the page cannot be mapped.
      failing.set(odd, -22);
      const again = await pack(memory(), DOMID, gfns, fd, 0, head);
      expect([...again.kinds]).toEqual([...kinds].map((kind) => (kind === DATA ? UNMAPPED : kind)));
    });
  }

  test('a record of zeros takes two calls, not one for each page', async () => {
    fill = () => 0;
    let calls = 0;
    const counted = {
      ...libcFunctions.memcmp,
      callFast: (...args: number[]) => {
        calls++;
        return libcFunctions.memcmp.callFast(...args);
      },
    };
    const { kinds } = await pack(memory({}, counted), DOMID, range(0, 1022), fd, 0, head);
    expect(kinds.every((kind) => kind === ZERO)).toBe(true);
    expect(calls).toBe(2);
  });

  test('mappings of different sizes, one after the other where the last one was, are seen as they are', async () => {
    const foreign = memory();
    for (const [round, count] of [3, 1022, 5, 600, 1022, ...Array<number>(40).fill(7)].entries()) {
      fill = (gfn) => ((gfn + round) % 3 === 0 ? 0 : (gfn % 200) + 1);
      const gfns = range(round, count);
      const { kinds } = await pack(foreign, DOMID, gfns, fd, 0, head);
      expect(kinds).toEqual(Uint8Array.from(gfns, (gfn) => (fill(gfn) === 0 ? ZERO : DATA)));
    }
    expect(mapped).toBe(0);
  });

  test('writes parallel batches one after the other, and one that fails does not stop the next', async () => {
    let writing = 0;
    const slow: WriteFd = async (file, bytes, offset, length, position) => {
      expect(writing++).toBe(0);
      await new Promise((resolve) => setTimeout(resolve, 10));
      writing--;
      if (position === 0) throw diskFull;
      return await real(file, bytes, offset, length, position);
    };
    const foreign = memory({ write: slow });
    const both = await Promise.allSettled(
      [0, 1, 0].map((at) => pack(foreign, DOMID, Uint32Array.of(5), fd, at * PAGE, head)),
    );
    expect(both.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'rejected']);
    expect(mapped).toBe(0);
  });

  describe('with a descriptor for O_DIRECT', () => {
    const DIRECT = 1_000_000;
    const alignedHead = (kinds: Uint8Array): Uint8Array =>
      new Uint8Array(2 * PAGE).fill(9).fill(7, 0, kinds.length);
    let writes: { readonly direct: boolean; readonly position: number; readonly length: number }[];
    /** What a kernel says that writes at most 3 pages at once, and only what is aligned. */
    const kernel: WriteFd = async (file, bytes, offset, length, position) => {
      const direct = file === DIRECT;
      writes.push({ direct, position, length });
      const address = Number(koffi.address(bytes)) + offset;
      if (direct && (address | length | position) % PAGE !== 0)
        throw Object.assign(new Error(), { code: 'EINVAL' });
      return await real(fd, bytes, offset, Math.min(length, 3 * PAGE), position);
    };
    beforeEach(() => {
      writes = [];
    });

    test('all is written there if it is aligned', async () => {
      const foreign = memory({ write: kernel });
      const gfns = range(1, 9);
      await pack(foreign, DOMID, gfns, fd, 8192, alignedHead, { directFd: DIRECT });
      // A buffer that was used before.
      await pack(foreign, DOMID, gfns.subarray(0, 4), fd, 16 * PAGE, alignedHead, { directFd: DIRECT });
      expect(writes.every(({ direct }) => direct)).toBe(true);
      expect(writes.map(({ position }) => position / PAGE)).toEqual([2, 5, 8, 11, 16, 19]);
      const file = readFileSync(join(directory, 'f'));
      expect([2, 4, 12, 18, 21].map((page) => file[page * PAGE])).toEqual([7, 1, 9, 1, 4]);
    });

    test('what is not aligned is written by the other one', async () => {
      await pack(memory({ write: kernel }), DOMID, range(1, 2), fd, 512, alignedHead, {
        directFd: DIRECT,
      });
      await pack(memory({ write: kernel }), DOMID, range(1, 2), fd, 0, head, { directFd: DIRECT });
      expect(writes.some(({ direct }) => direct)).toBe(false);
    });

    test('a file system that refuses it gets the rest by the other one', async () => {
      const picky: WriteFd = async (...args) => {
        if (args[0] === DIRECT && writes.length === 1) throw Object.assign(new Error(), { code: 'EINVAL' });
        return await kernel(...args);
      };
      const { kinds } = await pack(memory({ write: picky }), DOMID, range(1, 9), fd, 0, alignedHead, {
        directFd: DIRECT,
      });
      expect(writes.map(({ direct }) => direct)).toEqual([true, false, false, false]);
      expect(kinds.every((kind) => kind === DATA)).toBe(true);
      expect(readFileSync(join(directory, 'f'))).toHaveLength(11 * PAGE);
    });

    test('any other error is an error', async () => {
      const full: WriteFd = async () => {
        throw diskFull;
      };
      const failed = pack(memory({ write: full }), DOMID, range(1, 2), fd, 0, alignedHead, {
        directFd: DIRECT,
      });
      await expect(failed).rejects.toMatchObject({ data: { errno: 'ENOSPC' } });
    });
  });

  test('names a page that cannot be mapped, never touches it, and writes the others', async () => {
    failing.set(7, -22);
    const { kinds } = await pack(memory(), DOMID, Uint32Array.of(6, 7, 8), fd, 0, head);
    expect([...kinds]).toEqual([DATA, UNMAPPED, DATA]);
    expect(mapped).toBe(0);
    const file = readFileSync(join(directory, 'f'));
    expect(file).toHaveLength(HEAD + 2 * PAGE);
    expect([file[HEAD], file[HEAD + PAGE]]).toEqual([6, 8]);
  });

  test('throws if a mapping fails as a whole', async () => {
    mapErrno = 3;
    await expect(pack(memory(), DOMID, Uint32Array.of(1), fd, 0, head)).rejects.toMatchObject({
      data: { errno: 'ESRCH' },
    });
  });

  test('unmaps, and writes nothing, if the head cannot be made', async () => {
    const failed = pack(memory(), DOMID, Uint32Array.of(1), fd, 0, () => {
      throw new RangeError('no head');
    });
    await expect(failed).rejects.toThrow('no head');
    expect(mapped).toBe(0);
    expect(readFileSync(join(directory, 'f'))).toHaveLength(0);
  });

  test('continues after short writes', async () => {
    let calls = 0;
    const short: WriteFd = (file, bytes, offset, length, position) => {
      calls++;
      return real(file, bytes, offset, Math.min(length, 1000), position);
    };
    fill = (gfn) => (gfn === 6 ? 0 : gfn);
    const foreign = memory({ write: short });
    const { kinds } = await pack(foreign, DOMID, Uint32Array.of(5, 6, 7), fd, PAGE, head);
    const file = readFileSync(join(directory, 'f'));
    expect(
      file.subarray(PAGE).equals(Buffer.concat([head(kinds), Buffer.alloc(PAGE, 5), Buffer.alloc(PAGE, 7)])),
    ).toBe(true);
    expect(calls).toBe(Math.ceil((HEAD + 2 * PAGE) / 1000));
  });

  test('what is written is what is summed up, even if the guest writes in between', async () => {
    const { XXH3_64bits: xxh3 } = bind(koffi, XXHASH);
    fill = (gfn) => (gfn % 3 === 0 ? 0 : 1 + (gfn % 200));
    const foreign = memory({ xxh3 });
    for (const count of [1, 3, 300]) {
      const gfns = range(4, count);
      const { sum } = await pack(foreign, DOMID, gfns, fd, 0, head, { sum: true });
      const data = [...gfns].filter((gfn) => fill(gfn) !== 0).map((gfn) => Buffer.alloc(PAGE, fill(gfn)));
      const kinds = Uint8Array.from(gfns, (gfn) => (fill(gfn) === 0 ? ZERO : DATA));
      expect(sum).toBe(await xxhash3(Buffer.concat([head(kinds), ...data])));
    }
  });

  test('zeros at the end are left out of the sum', async () => {
    const { XXH3_64bits: xxh3 } = bind(koffi, XXHASH);
    fill = () => 0;
    const zeros = (): Uint8Array => new Uint8Array(HEAD).fill(1, 0, 7);
    const { sum } = await pack(memory({ xxh3 }), DOMID, range(1, 2), fd, 0, zeros, { sum: true });
    expect(sum).toBe(await xxhash3(Uint8Array.of(1, 1, 1, 1, 1, 1, 1)));
  });

  test('without libxxhash there is no sum', async () => {
    const { sum } = await pack(memory(), DOMID, range(1, 2), fd, 0, head, { sum: true });
    expect(sum).toBeUndefined();
  });

  test('throws an OutputError with the offset if the disk is full', async () => {
    const full: WriteFd = () => Promise.reject(diskFull);
    await expect(
      pack(memory({ write: full }), DOMID, Uint32Array.of(5), fd, 3 * PAGE, head),
    ).rejects.toMatchObject({
      code: 'OUTPUT_WRITE',
      exitCode: 12,
      offset: 3 * PAGE,
      data: { errno: 'ENOSPC' },
      hint: expect.stringContaining('free space'),
    });
    expect(mapped).toBe(0);
  });
});

describe('readPages', () => {
  test('copies pages to their places, skips those that cannot be mapped, and unmaps', async () => {
    const gfns = range(1, 300);
    failing.set(3, -22);
    const into = new Uint8Array(301 * PAGE).fill(255);
    const kinds = await memory().readPages(DOMID, gfns, into);
    expect(kinds).toEqual(Uint8Array.from(gfns, (gfn) => (gfn === 3 ? UNMAPPED : DATA)));
    for (const [i, gfn] of [...gfns, 255].entries()) {
      const page = Buffer.from(into.subarray(i * PAGE, (i + 1) * PAGE));
      expect(page.equals(Buffer.alloc(PAGE, gfn === 3 ? 255 : fill(gfn))), `gfn ${gfn}`).toBe(true);
    }
    expect(mapped).toBe(0);
  });

  test('refuses a buffer that is too small', async () => {
    const small = new Uint8Array(2 * PAGE - 1);
    await expect(memory().readPages(DOMID, Uint32Array.of(1, 2), small)).rejects.toThrow(RangeError);
  });
});

describe('pages that are rewritten', () => {
  /** Adds 1 to the first word; refuses the page with index 4. */
  const seen: number[] = [];
  const rewriter = {
    pages: [0, 1, 2, 4],
    rewrite: (words: Uint32Array, index: number): boolean => {
      expect(words).toHaveLength(PAGE / 4);
      seen.push(index);
      words[0] = (words[0] ?? 0) + 1;
      return index !== 4;
    },
  };
  /** Pages of 0, 1, 2 (which cannot be mapped), 3 and 4. */
  const gfns = range(0, 5);
  const changed = (byte: number): Buffer => {
    const page = Buffer.alloc(PAGE, byte);
    page.writeUInt32LE(page.readUInt32LE() + 1);
    return page;
  };
  beforeEach(() => {
    seen.length = 0;
    failing.set(2, -22);
  });

  test('are changed in the file, and the others are not; one that is refused counts as unmapped', async () => {
    const { kinds } = await pack(memory(), DOMID, gfns, fd, 0, head, { rewriter });
    expect([...kinds]).toEqual([ZERO, DATA, UNMAPPED, DATA, UNMAPPED]);
    expect(seen).toEqual([1, 4]);
    const file = readFileSync(join(directory, 'f'));
    expect(file.equals(Buffer.concat([head(kinds), changed(1), Buffer.alloc(PAGE, 3)]))).toBe(true);
    expect(mapped).toBe(0);
  });

  test('are changed when read', async () => {
    const into = new Uint8Array(6 * PAGE).subarray(PAGE);
    const kinds = await memory().readPages(DOMID, gfns, into, rewriter);
    expect([...kinds]).toEqual([DATA, DATA, UNMAPPED, DATA, UNMAPPED]);
    expect(seen).toEqual([0, 1, 4]);
    expect(Buffer.from(into.subarray(PAGE, 2 * PAGE)).equals(changed(1))).toBe(true);
    expect(Buffer.from(into.subarray(3 * PAGE, 4 * PAGE)).equals(Buffer.alloc(PAGE, 3))).toBe(true);
  });
});
