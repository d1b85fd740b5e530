import { beforeEach, describe, expect, test } from 'vitest';
import { toDomid } from '../../../../src/core/brand.ts';
import { NO_FRAME } from '../../../../src/xenctrl/pv/frame-table.ts';
import { PvDomain } from '../../../../src/xenctrl/pv/pv-domain.ts';
import { FakePv } from '../../../support/fake-pv.ts';

const DOMID = toDomid(7);

describe.each(['list', 'tree'] as const)('a domain whose p2m is a %s', (kind) => {
  let pv: FakePv;
  beforeEach(() => {
    pv = new FakePv(8, 3000, kind);
  });

  test('translates pfns, knows its frames, and unmaps everything it has mapped', async () => {
    {
      await using domain = await PvDomain.open(pv.sources, DOMID, pv.facts);
      expect(domain.p2mSize).toBe(3000);
      expect(domain.mfnOf(1234)).toBe(pv.world.mfn(1234));
      expect(domain.mfnOf(3000)).toBe(NO_FRAME);
      expect([...domain.p2mFrames].map((pfn) => pv.world.mfn(pfn))).toEqual(pv.leaves);
      expect(domain.sharedInfo()).toEqual(pv.world.sharedInfo);
      expect(pv.mapped).toBeGreaterThan(0);
    }
    expect(pv.mapped).toBe(0);
  });

  test('follows a page that is ballooned out, and in', async () => {
    await using domain = await PvDomain.open(pv.sources, DOMID, pv.facts);
    const entry = pv.entryOf(700);
    const mfn = domain.mfnOf(700);
    entry.fill(NO_FRAME);
    expect(domain.mfnOf(700)).toBe(NO_FRAME);
    entry.set([mfn, 0]);
    expect(domain.mfnOf(700)).toBe(mfn);
    // What Linux writes for a page that it has mapped from another domain.
    entry.set([mfn, 0x80000000]);
    expect(domain.mfnOf(700)).toBe(NO_FRAME);
    entry.set([pv.world.mfnCount, 0]);
    expect(domain.mfnOf(700)).toBe(NO_FRAME);
  });

  test('keeps a p2m that is not moved', async () => {
    await using domain = await PvDomain.open(pv.sources, DOMID, pv.facts);
    expect(domain.moved()).toBe(false);
    expect(await domain.refresh()).toEqual([]);
  });

  test('finds a part of the p2m again that was moved, and unmaps the old one', async () => {
    await using domain = await PvDomain.open(pv.sources, DOMID, pv.facts);
    const before = pv.mapped;
    const frames = [...domain.p2mFrames];
    pv.moveLeaf(2);
    pv.entryOf(1100).set([pv.world.mfn(3), 0]);
    expect(domain.moved()).toBe(kind === 'list');
    expect(domain.mfnOf(1100)).toBe(pv.world.mfn(1100));
    expect(await domain.refresh()).toEqual([{ from: 1024, to: 1536 }]);
    expect(domain.mfnOf(1100)).toBe(pv.world.mfn(3));
    expect(domain.moved()).toBe(false);
    expect([...domain.p2mFrames].filter((pfn, i) => pfn !== frames[i])).toHaveLength(1);
    expect(pv.mapped).toBe(before);
  });

  test('refuses a p2m that has grown, which is no longer the one that was written', async () => {
    await using domain = await PvDomain.open(pv.sources, DOMID, pv.facts);
    pv.publish({ maxPfn: 2999n });
    await expect(domain.refresh()).rejects.toMatchObject({ code: 'P2M_RESIZED', exitCode: 4 });
    expect(domain.p2mSize).toBe(3000);
  });

  test('refuses a frame of the p2m that the p2m does not know', async () => {
    pv.entryOf(pv.world.m2p.get(pv.leaves[3] ?? 0)).fill(NO_FRAME);
    await expect(PvDomain.open(pv.sources, DOMID, pv.facts)).rejects.toMatchObject({ code: 'P2M_FRAME' });
  });

  test("refuses a frame of the p2m that is another domain's, and unmaps everything", async () => {
    pv.setLeaf(1, 5);
    await expect(PvDomain.open(pv.sources, DOMID, pv.facts)).rejects.toMatchObject({ code: 'P2M_FRAME' });
    expect(pv.mapped).toBe(0);
  });
});

test('a guest that keeps moving its p2m while it is looked for is refused', async () => {
  const pv = new FakePv(8, 3000, 'list');
  pv.onMap = () => pv.publish({ generation: BigInt(pv.maps) });
  await expect(PvDomain.open(pv.sources, DOMID, pv.facts)).rejects.toMatchObject({ code: 'P2M_MOVES' });
  expect(pv.mapped).toBe(0);
});

test('a guest that is moving its p2m once is waited for', async () => {
  const pv = new FakePv(8, 3000, 'list');
  const { claim } = pv;
  pv.publish({ p2mVaddr: 0xffff_c900_4000_0000n, generation: 1n });
  pv.onMap = () => pv.publish(claim);
  await using domain = await PvDomain.open(pv.sources, DOMID, pv.facts);
  expect(domain.p2mSize).toBe(3000);
});

test('vCPUs have pfns', async () => {
  const pv = new FakePv(8, 3000, 'list');
  await using domain = await PvDomain.open(pv.sources, DOMID, pv.facts);
  const [vcpu] = await domain.vcpus();
  expect(vcpu).toMatchObject({ id: 0, extended: Uint8Array.of(1), xsave: undefined });
  const { ctrlreg } = pv.world.layout.vcpu_guest_context;
  const cr3 = new DataView(vcpu?.basic.buffer ?? new ArrayBuffer(0)).getBigUint64(ctrlreg + 24, true);
  expect(cr3).toBe(BigInt(FakePv.CR3_PFN) << 12n);
});

test('a 32-bit domain asks for the m2p of its width', async () => {
  const pv = new FakePv(4, 3000, 'list');
  await using domain = await PvDomain.open(pv.sources, DOMID, pv.facts);
  expect(domain.mfnOf(2999)).toBe(pv.world.mfn(2999));
  expect(pv.compatAsked).toBe(1);
  const words = new Uint32Array(1024);
  words.set([(FakePv.COMPAT << 12) | 1, 0], 2 * 428);
  expect(domain.normalise(words, 2)).toBeUndefined();
  expect(words.every((word) => word === 0)).toBe(true);
});
