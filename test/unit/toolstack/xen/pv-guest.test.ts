import { beforeEach, describe, expect, test } from 'vitest';
import { Bitmap } from '../../../../src/core/bitmap.ts';
import { toDomid } from '../../../../src/core/brand.ts';
import { PAGE_KIND } from '../../../../src/core/page-kind.ts';
import type { Xen } from '../../../../src/toolstack/xen/guest-records.ts';
import { PvGuest } from '../../../../src/toolstack/xen/pv-guest.ts';
import { NO_FRAME, type PageRewriter, SHUTDOWN } from '../../../../src/xenctrl/index.ts';
import { PvDomain } from '../../../../src/xenctrl/pv/pv-domain.ts';
import { FakePv } from '../../../support/fake-pv.ts';

const DOMID = toDomid(7);
const PFNS = 3000;
/** pfn of a page table of level 1, pinned. */
const TABLE = 2000;
const L1TAB_PINNED = 0x9;
const XTAB = 0xf;

let pv: FakePv;
let suspended: boolean;
/** Types that Xen reports, by mfn; NOTAB for the others. */
let types: Map<number, number>;
let dirty: number[];
/** mfns that Xen was asked about. */
let asked: number[];

/** libxenctrl over a FakePv. */
function makeXen(): Xen {
  const unused = () => Promise.reject(new Error('not in this test'));
  const info = async () => ({
    uuid: '',
    hvm: false,
    paused: false,
    dying: false,
    shutdownReason: suspended ? SHUTDOWN.SHUTDOWN_suspend : undefined,
    memoryBytes: 0,
    ...pv.facts,
  });
  const read = (mfns: Uint32Array, into: Uint8Array, rewriter?: PageRewriter): Uint8Array => {
    const kinds = new Uint8Array(mfns.length);
    for (const [i, mfn] of mfns.entries()) {
      if (!pv.world.owns(mfn)) kinds[i] = PAGE_KIND.unmapped;
      else into.set(new Uint8Array(pv.world.page(mfn).slice().buffer), i * 4096);
    }
    for (const i of rewriter?.pages ?? []) {
      const words = new Uint32Array(into.buffer, i * 4096, 1024);
      if (kinds[i] === 0 && rewriter?.rewrite(words, i) !== true) kinds[i] = PAGE_KIND.unmapped;
    }
    return kinds;
  };
  return {
    version: { major: 4, minor: 20, extra: '' },
    proof: 'real-xen',
    domainInfo: info,
    openPv: (domid, facts) => PvDomain.open(pv.sources, domid, facts),
    pageTypes: async (_domid, mfns) => {
      asked.push(...mfns);
      return Uint8Array.from(mfns, (mfn) => types.get(mfn) ?? 0);
    },
    pageTypesFrom: unused,
    shadowPaging: () => false,
    freeMemory: () => 0,
    podCounts: unused,
    hasBooted: unused,
    packPages: async (_domid, mfns, _fd, _position, makeHead, { rewriter } = {}) => {
      const kinds = read(mfns, new Uint8Array(mfns.length * 4096), rewriter);
      makeHead(kinds);
      return { kinds, written: Promise.resolve(undefined) };
    },
    readPages: async (_domid, mfns, into, rewriter) => read(mfns, into, rewriter),
    peekDirty: unused,
    markDirty: unused,
    takeDirty: async () => {
      const pages = new Bitmap(PFNS);
      for (const pfn of dirty.splice(0)) pages.set(pfn);
      return { bitmap: pages.bytes, whole: true };
    },
    tscInfo: async () => ({ mode: 0, khz: 1, nsec: 2n, incarnation: 3 }),
    cpuPolicy: async () => ({ leaves: new Uint8Array(0), msrs: new Uint8Array(0) }),
    startDirtyLog: async () => {},
    stopDirtyLog: async () => {},
    pause: unused,
    unpause: unused,
    shutdown: unused,
    resume: unused,
    nrGpfns: unused,
    hvmContext: unused,
    hvmParam: unused,
    [Symbol.asyncDispose]: async () => {},
  };
}

async function open(): Promise<PvGuest> {
  const xen = makeXen();
  const info = await xen.domainInfo(DOMID);
  if (info === undefined) throw new Error('no domain');
  return await PvGuest.open(xen, DOMID, info);
}

const all = (): Uint32Array => Uint32Array.from({ length: PFNS }, (_, i) => i);

async function taken(guest: PvGuest, final = false): Promise<number[]> {
  const pages = new Bitmap(PFNS);
  await guest.takeDirty(pages, { final });
  return [...pages.indices()];
}

beforeEach(() => {
  pv = new FakePv(8, PFNS, 'list');
  suspended = false;
  dirty = [];
  asked = [];
  types = new Map([[pv.world.mfn(TABLE), L1TAB_PINNED]]);
  pv.world.setEntry(pv.world.mfn(TABLE), 7, pv.world.mfn(55));
});

describe('page types', () => {
  test('are those of the mfns; Xen is not asked where there is no page', async () => {
    pv.entryOf(12).fill(NO_FRAME);
    pv.entryOf(13).set([pv.world.mfn(13), 0x80000000]);
    await using guest = await open();
    const found = await guest.pageTypes(Uint32Array.of(11, 12, 13, TABLE, 14));
    expect([...found]).toEqual([0, XTAB, XTAB, L1TAB_PINNED, 0]);
    expect([...(await guest.pageTypesFrom(11, 4))]).toEqual([0, XTAB, XTAB, 0]);
    expect(asked.slice(0, 3)).toEqual([11, TABLE, 14].map((pfn) => pv.world.mfn(pfn)));
  });
});

test('one page at many pfns is ignored while the guest runs, and an error once it is suspended', async () => {
  await using guest = await open();
  const mfn = pv.world.mfn(100);
  for (const pfn of [101, 102]) pv.entryOf(pfn).set([mfn, 0]);
  const pfns = Uint32Array.of(100, 101, 102, 103);
  expect([...(await guest.pageTypes(pfns))]).toEqual([0, XTAB, XTAB, 0]);
  // They are looked at again.
  expect(await taken(guest)).toEqual([101, 102]);
  suspended = true;
  await expect(guest.pageTypes(pfns)).rejects.toMatchObject({
    code: 'P2M_DISAGREES',
    data: { pfn: 101, mfn },
  });
});

describe('page tables', () => {
  test.each(['packPages', 'readPages'] as const)('have pfns in what %s gives', async (how) => {
    await using guest = await open();
    const pfns = Uint32Array.of(1, TABLE, 2);
    await guest.pageTypes(pfns);
    const into = new Uint8Array(3 * 4096);
    const kinds =
      how === 'readPages'
        ? await guest.readPages(pfns, into)
        : (await guest.packPages(1, pfns, 0, () => new Uint8Array(64))).kinds;
    expect([...kinds]).toEqual([0, 0, 0]);
    if (how === 'packPages') return;
    const words = new Uint32Array(into.buffer, 4096 + 7 * 8, 2);
    expect([...words]).toEqual([(55 << 12) | 0x23, 0x80000000]);
    expect(pv.world.page(pv.world.mfn(TABLE))[14]).toBe((pv.world.mfn(55) << 12) | 0x23);
  });

  test('of a page that is not a page table are not touched', async () => {
    types.clear();
    await using guest = await open();
    await guest.pageTypes(Uint32Array.of(TABLE));
    const into = new Uint8Array(4096);
    await guest.readPages(Uint32Array.of(TABLE), into);
    expect(new Uint32Array(into.buffer)[14]).toBe((pv.world.mfn(55) << 12) | 0x23);
  });

  test('that are being changed count as unmapped while the guest runs', async () => {
    await using guest = await open();
    const pfns = Uint32Array.of(TABLE, 3);
    await guest.pageTypes(pfns);
    pv.world.setEntry(pv.world.mfn(TABLE), 8, 5);
    const { kinds } = await guest.packPages(1, pfns, 0, () => new Uint8Array(64));
    expect([...kinds]).toEqual([PAGE_KIND.unmapped, PAGE_KIND.data]);
  });

  test('of a suspended guest cause an error that names the entry', async () => {
    await using guest = await open();
    const pfns = Uint32Array.of(3, TABLE);
    await guest.pageTypes(pfns);
    pv.world.setEntry(pv.world.mfn(TABLE), 8, 5);
    suspended = true;
    await expect(guest.readPages(pfns, new Uint8Array(2 * 4096))).rejects.toMatchObject({
      code: 'PAGE_TABLE',
      exitCode: 4,
      domid: DOMID,
      data: { pfn: TABLE, level: 1, index: 8, mfn: 5 },
    });
  });
});

describe('what has to be copied again', () => {
  test("is what Xen's log says", async () => {
    await using guest = await open();
    await guest.pageTypes(all());
    dirty = [5, 700];
    expect(await taken(guest)).toEqual([5, 700]);
    expect(await taken(guest)).toEqual([]);
  });

  test('includes a page that did not exist when it was asked for, and does now', async () => {
    const mfn = pv.entryOf(12).slice();
    pv.entryOf(12).fill(NO_FRAME);
    await using guest = await open();
    await guest.pageTypes(all());
    expect(await taken(guest)).toEqual([]);
    pv.entryOf(12).set(mfn);
    expect(await taken(guest)).toEqual([12]);
    await guest.pageTypes(Uint32Array.of(12));
    expect(await taken(guest)).toEqual([]);
  });

  test('includes all pages whose part of the p2m was moved', async () => {
    await using guest = await open();
    await guest.pageTypes(all());
    pv.moveLeaf(1);
    expect(await taken(guest)).toEqual(Array.from({ length: 512 }, (_, i) => 512 + i));
    expect(await taken(guest)).toEqual([]);
  });

  test('includes those of a p2m that was moved without notice: settling looks for it', async () => {
    pv = new FakePv(8, PFNS, 'tree');
    await using guest = await open();
    await guest.pageTypes(all());
    pv.moveLeaf(5);
    expect(await taken(guest)).toEqual([]);
    suspended = true;
    await guest.settle();
    expect(await taken(guest, true)).toEqual(Array.from({ length: PFNS - 2560 }, (_, i) => 2560 + i));
  });

  test('is undefined for a p2m of another size, which ends the snapshot', async () => {
    await using guest = await open();
    pv.publish({ maxPfn: 2000n });
    await expect(guest.settle()).rejects.toMatchObject({ code: 'P2M_RESIZED' });
  });
});

test('the records of a PV guest are those of libxc', async () => {
  await using guest = await open();
  expect(await guest.staticRecords()).toEqual([
    { name: 'X86_PV_INFO', guestWidth: 8, ptLevels: 4, reserved1: 0, reserved2: 0 },
  ]);
  const [frames] = await guest.startRecords();
  expect(frames).toMatchObject({ name: 'X86_PV_P2M_FRAMES', startPfn: 0, endPfn: PFNS - 1 });
  suspended = true;
  const records = await guest.stateRecords();
  expect(records.map(({ name }) => name)).toEqual([
    'X86_TSC_INFO',
    'SHARED_INFO',
    'X86_PV_VCPU_BASIC',
    'X86_PV_VCPU_EXTENDED',
  ]);
});
