import { describe, expect, test } from 'vitest';
import { FrameTable, NO_FRAME } from '../../../../src/xenctrl/pv/frame-table.ts';
import { cr3Frame, findP2m, frameCr3, type P2mClaim, readP2mClaim } from '../../../../src/xenctrl/pv/p2m.ts';
import { PvWorld, worldCr3 } from '../../../support/pv-world.ts';

/** Where a guest's list begins: in Linux above Xen; a 32-bit guest's below it. */
const VADDR = { 8: 0xc900_0000_0000, 4: 0xc000_0000 } as const;
const CANONICAL = 0xffff_0000_0000_0000n;

function vaddr(width: 4 | 8, address: number = VADDR[width]): bigint {
  return width === 8 && address >= 2 ** 47 ? CANONICAL + BigInt(address) : BigInt(address);
}

/** A guest with a list of the leaves. */
function withList(
  world: PvWorld,
  leaves: readonly number[],
  address: number = VADDR[world.layout.width],
): P2mClaim {
  const { width } = world.layout;
  const root = world.mapAt(address, leaves);
  return world.claim({ p2mCr3: worldCr3(root, width), p2mVaddr: vaddr(width, address), generation: 2n });
}

function find(world: PvWorld, claim: P2mClaim) {
  return findP2m(claim, world.layout, world.mfnCount, world.read);
}

describe('FrameTable', () => {
  test('wide entries beyond 32 bits are not frames', () => {
    const table = new FrameTable([Uint32Array.of(7, 0, 8, 1, 9, 0x80000000, 5, 0)], 4, 4, 8);
    expect([0, 1, 2, 3, 4, NO_FRAME].map((i) => table.get(i))).toEqual([
      7,
      NO_FRAME,
      NO_FRAME,
      5,
      NO_FRAME,
      NO_FRAME,
    ]);
  });

  test('narrow entries may be in several pieces', () => {
    const table = new FrameTable(
      [Uint32Array.of(1, 2), Uint32Array.of(3, NO_FRAME), Uint32Array.of(5)],
      2,
      5,
      4,
    );
    expect([0, 1, 2, 3, 4, 5].map((i) => table.get(i))).toEqual([1, 2, 3, NO_FRAME, 5, NO_FRAME]);
  });

  test('pieces that are too short are refused, so that nothing is read beyond them', () => {
    expect(() => new FrameTable([new Uint32Array(7)], 4, 4, 8)).toThrow(RangeError);
    expect(() => new FrameTable([], 4, 1, 8)).toThrow(RangeError);
  });
});

test.each([4, 8] as const)('the shared info of a guest with words of %i bytes', (width) => {
  const world = new PvWorld(width, 8);
  const claim = {
    maxPfn: 0x12345n,
    p2mCr3: 0x1000n,
    p2mVaddr: 0xc0000000n,
    frameListList: 0x77n,
    generation: 3n,
  };
  world.publish(claim);
  expect(readP2mClaim(world.sharedInfo, world.layout)).toEqual(claim);
});

test.each([4, 8] as const)('cr3 and back, %i bytes', (width) => {
  for (const frame of [0, 1, 0xfffff, 0x100000, 0xabcdef, 0x123abcd]) {
    expect(cr3Frame(frameCr3(frame, width), width)).toBe(frame);
  }
  expect(cr3Frame(frameCr3(0x123abcd, width), width)).toBe(0x123abcd);
});

test('a cr3 from 2^32 on has no frame', () => {
  expect(cr3Frame(1n << 44n, 8)).toBe(NO_FRAME);
  expect(cr3Frame(1n << 32n, 4)).toBe(NO_FRAME);
  expect(cr3Frame(0xffffffffn << 12n, 8)).toBe(0xffffffff);
});

describe.each([4, 8] as const)('the p2m of a guest with words of %i bytes', (width) => {
  test.each([
    ['small', 600],
    ['of one full frame', 4096 / width],
    ['of several tables', 300_000],
  ])('a list: %s', async (_what, pfns) => {
    const world = new PvWorld(width, pfns + 2000);
    const leaves = world.makeLeaves(Math.ceil(pfns / world.perFrame));
    const claim = { ...withList(world, leaves), maxPfn: BigInt(pfns) };
    expect(await find(world, claim)).toEqual({ size: pfns, leaves: Uint32Array.from(leaves) });
  });

  test('a list may begin in the middle of a table', async () => {
    const world = new PvWorld(width, 4000);
    const leaves = world.makeLeaves();
    const claim = withList(world, leaves, VADDR[width] + 511 * 4096);
    expect(await find(world, claim)).toEqual({ size: 4000, leaves: Uint32Array.from(leaves) });
  });

  test('a tree is followed', async () => {
    const world = new PvWorld(width, 4000);
    const leaves = world.makeLeaves();
    const claim = world.claim({ frameListList: BigInt(world.makeTree(leaves)) });
    expect(await find(world, claim)).toEqual({ size: 4000, leaves: Uint32Array.from(leaves) });
  });

  test('a list whose rest is one table that says nothing ends before it', async () => {
    const world = new PvWorld(width, 3000);
    const leaves = world.makeLeaves();
    const missing = world.takePage();
    world.page(missing).fill(NO_FRAME);
    const claim = withList(world, leaves);
    // Four more tables of level 1, all the same: the address space that could be added.
    const root = cr3Frame(claim.p2mCr3, width);
    const shared = world.takePage();
    for (let i = 0; i < 512; i++) world.setEntry(shared, i, missing);
    let table = root;
    for (let level: number = world.layout.ptLevels; level > 2; level--) {
      const index = Math.floor(VADDR[width] / 2 ** (9 * level + 3)) % 512;
      table = (world.page(table)[2 * index] ?? 0) >>> 12;
    }
    for (let i = 1; i <= 4; i++) world.setEntry(table, i, shared);
    for (let i = leaves.length; i < 512; i++) {
      world.setEntry((world.page(table)[0] ?? 0) >>> 12, i, missing);
    }
    const size = 512 * world.perFrame;
    const found = await find(world, { ...claim, maxPfn: BigInt(5 * size) });
    expect(found.size).toBe(size);
    expect(found.leaves).toHaveLength(512);
    expect([...found.leaves.subarray(0, leaves.length)]).toEqual(leaves);
  });

  test('a tree whose rest is one list that says nothing ends after the first of them', async () => {
    const world = new PvWorld(width, 3000);
    const leaves = world.makeLeaves();
    const missing = world.takePage();
    const padded = [...leaves, ...Array.from({ length: world.perFrame - leaves.length }, () => missing)];
    const root = world.makeTree(padded);
    const shared = world.takePage();
    for (let i = 0; i < world.perFrame; i++) {
      world.page(shared).set(width === 8 ? [missing, 0] : [missing], (i * width) / 4);
    }
    for (let i = 1; i < 9; i++) world.page(root).set(width === 8 ? [shared, 0] : [shared], (i * width) / 4);
    const found = await find(
      world,
      world.claim({ frameListList: BigInt(root), maxPfn: BigInt(9 * world.perFrame ** 2) }),
    );
    expect(found.size).toBe(2 * world.perFrame ** 2);
  });
});

describe('a hostile guest is refused or bounded', () => {
  const world = (): PvWorld => new PvWorld(8, 3000);
  const list = (change: (claim: P2mClaim, world: PvWorld) => P2mClaim) => {
    const host = world();
    return { host, claim: change(withList(host, host.makeLeaves()), host) };
  };

  test.each<[string, string, (claim: P2mClaim, world: PvWorld) => P2mClaim]>([
    ['no entries', 'P2M_SIZE', (claim) => ({ ...claim, maxPfn: 0n })],
    ['2^64 - 1 entries', 'P2M_SIZE', (claim) => ({ ...claim, maxPfn: 2n ** 64n - 1n })],
    ['more entries than we follow', 'P2M_SIZE', (claim) => ({ ...claim, maxPfn: 2n ** 30n + 1n })],
    [
      'a root beyond the host',
      'P2M_FRAME',
      (claim, host) => ({ ...claim, p2mCr3: BigInt(host.mfnCount) << 12n }),
    ],
    ['a root beyond 16 TiB', 'P2M_FRAME', (claim) => ({ ...claim, p2mCr3: 2n ** 63n })],
    ['a root that is not its own', 'NOT_THE_GUESTS', (claim) => ({ ...claim, p2mCr3: 5n << 12n })],
    ['a root at mfn 0', 'P2M_FRAME', (claim) => ({ ...claim, p2mCr3: 5n })],
    [
      'an address that is not canonical',
      'P2M_RANGE',
      (claim) => ({ ...claim, p2mVaddr: 0x0001_c900_0000_0000n }),
    ],
    ['an address amid a page', 'P2M_RANGE', (claim) => ({ ...claim, p2mVaddr: claim.p2mVaddr + 8n })],
    ['an address of Xen', 'P2M_RANGE', (claim) => ({ ...claim, p2mVaddr: 0xffff_8000_0000_0000n })],
    [
      'an end in the addresses of Xen',
      'P2M_RANGE',
      (claim) => ({ ...claim, p2mVaddr: 0xffff_7fff_ffff_f000n }),
    ],
    [
      'a list that crosses from the lower to the upper half',
      'P2M_RANGE',
      (claim) => ({ ...claim, p2mVaddr: 0x0000_7fff_ffff_f000n }),
    ],
    [
      'a list around the end of the address space',
      'P2M_RANGE',
      (claim) => ({ ...claim, p2mVaddr: 0xffff_ffff_ffff_f000n }),
    ],
    ['tables that are not there', 'P2M_FRAME', (claim) => ({ ...claim, p2mVaddr: 0x1000n })],
    ['a tree that is not there', 'P2M_FRAME', (claim) => ({ ...claim, p2mCr3: 0n, frameListList: 0n })],
    ['a tree beyond 16 TiB', 'P2M_FRAME', (claim) => ({ ...claim, p2mCr3: 0n, frameListList: 2n ** 40n })],
    [
      'a p2m that no tree can hold',
      'P2M_SIZE',
      (claim, host) => ({
        ...claim,
        p2mCr3: 0n,
        frameListList: BigInt(host.mfn(0)),
        maxPfn: 512n ** 3n + 1n,
      }),
    ],
  ])('%s', async (_what, code, change) => {
    const { host, claim } = list(change);
    await expect(find(host, claim)).rejects.toMatchObject({ code, exitCode: 4 });
  });

  test('a 32-bit list that is larger than its address space', async () => {
    const host = new PvWorld(4, 3000);
    const claim = { ...withList(host, host.makeLeaves()), maxPfn: 2n ** 30n };
    await expect(find(host, claim)).rejects.toMatchObject({ code: 'P2M_RANGE' });
    const above = { ...claim, maxPfn: 3000n, p2mVaddr: 0xf580_0000n };
    await expect(find(host, above)).rejects.toMatchObject({ code: 'P2M_RANGE' });
  });

  test('tables that loop: one page is all of them, and the walk ends', async () => {
    const host = new PvWorld(8, 3000);
    const loop = host.takePage();
    for (let i = 0; i < 512; i++) host.setEntry(loop, i, loop);
    const claim = host.claim({
      p2mCr3: worldCr3(loop, 8),
      p2mVaddr: vaddr(8),
      maxPfn: 2n ** 29n,
    });
    await expect(find(host, claim)).rejects.toMatchObject({ code: 'P2M_SIZE' });
    expect(host.reads.length).toBeLessThan(10);
  });

  test('tables that loop within one table: no more is read than the size allows', async () => {
    const host = new PvWorld(8, 3000);
    const loop = host.takePage();
    for (let i = 0; i < 512; i++) host.setEntry(loop, i, loop);
    const claim = host.claim({ p2mCr3: worldCr3(loop, 8), p2mVaddr: vaddr(8), maxPfn: 3000n });
    expect(await find(host, claim)).toEqual({ size: 3000, leaves: new Uint32Array(6).fill(loop) });
    expect(host.reads).toEqual([loop, loop, loop, loop]);
  });

  test('entries of the tables beyond the host, and beyond 16 TiB', async () => {
    for (const [low, high] of [
      [0, 0],
      [0xfffff000, 0x3],
      [1, 0x80001000],
    ] as const) {
      const host = world();
      const leaves = host.makeLeaves();
      const claim = withList(host, leaves);
      let table = cr3Frame(claim.p2mCr3, 8);
      for (let level = 4; level > 1; level--) {
        const index = Math.floor(VADDR[8] / 2 ** (9 * level + 3)) % 512;
        table = (host.page(table)[2 * index] ?? 0) >>> 12;
      }
      host.page(table).set([low, high], 2 * 3);
      await expect(find(host, claim)).rejects.toMatchObject({
        code: 'P2M_FRAME',
        message: expect.stringContaining('entry 3 of a table of level 1'),
      });
    }
  });
});
