import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { InterruptedError, OutputError } from '../../../src/core/errors.ts';
import { type Progress, silentReporter } from '../../../src/core/reporter.ts';
import { type MemoryPlan, planMemory, saveMemory } from '../../../src/snapshot/memory.ts';
import { OutputFile } from '../../../src/snapshot/output-file.ts';
import { FakeGuest } from '../../support/fake-guest.ts';

const START = 8192;
const PAGE = 4096;
const NOTAB = 0;
const BROKEN = 13;
const XTAB = 15;

let directory: string;
let output: OutputFile;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-memory-'));
  output = await OutputFile.create(join(directory, 'm'));
});
afterEach(async () => {
  await output.discard();
  rmSync(directory, { recursive: true });
});

/** A p2m with RAM, a hole, RAM, and emptiness above. */
function p2m(): Uint8Array {
  return new Uint8Array(20_000).fill(NOTAB).fill(XTAB, 160, 192).fill(XTAB, 9000);
}

interface Entry {
  readonly pfn: number;
  readonly type: number;
  /** Octets of the file at the page. */
  readonly at: number;
}

/** PAGE_DATA records in [START, end), read without src/savefmt. */
function entries(file: Uint8Array, end: number): Entry[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const found: Entry[] = [];
  let at = START;
  while (at < end) {
    expect(view.getUint32(at, true), `record type at ${at}`).toBe(1);
    const body = at + 8;
    const length = view.getUint32(at + 4, true);
    const count = view.getUint32(body, true);
    let page = body + 8 + 8 * count;
    for (let i = 0; i < count; i++) {
      const word = view.getBigUint64(body + 8 + 8 * i, true);
      const type = Number(word >> 60n);
      found.push({ pfn: Number(word & 0xfffffffffffffn), type, at: page });
      if (type < BROKEN) page += PAGE;
    }
    expect(page - body).toBe(length);
    at = body + length;
  }
  expect(at).toBe(end);
  return found;
}

function planOf(guest: FakeGuest): Promise<MemoryPlan> {
  return planMemory(guest, START);
}

describe('planMemory', () => {
  test('gives a slot to each page with data and none to XTAB', async () => {
    const types = p2m();
    types[5] = BROKEN;
    types[7] = 14;
    types[9] = 0x9;
    const { pages, bare, layout } = await planOf(new FakeGuest(types));
    const wanted = [...types.keys()].filter((pfn) => (types[pfn] ?? 0) < BROKEN);
    expect([...pages.pfns]).toEqual(wanted);
    expect([...pages.types]).toEqual(wanted.map((pfn) => types[pfn]));
    expect([[...bare.pfns], [...bare.types]]).toEqual([
      [5, 7],
      [BROKEN, 14],
    ]);
    expect([layout.start, layout.count]).toEqual([START, wanted.length]);
  });

  test('asks for types in bounded pieces and stops between them when told to', async () => {
    const guest = new FakeGuest(new Uint8Array(200_000).fill(XTAB));
    expect((await planOf(guest)).pages.pfns).toHaveLength(0);
    expect(guest.calls.mostTypes).toBe(65_536);
    await expect(planMemory(guest, START, { signal: AbortSignal.abort() })).rejects.toThrow(InterruptedError);
  });

  test('refuses a p2m whose pfns do not fit into 32 bits', async () => {
    const guest = Object.assign(new FakeGuest(new Uint8Array(0)), { p2mSize: 2 ** 32 + 1 });
    await expect(planOf(guest)).rejects.toMatchObject({ code: 'DOMAIN_P2M' });
  });
});

describe('saveMemory', () => {
  test('writes every page once, zero pages as holes, BROKEN without data', async () => {
    const types = p2m();
    types[5] = BROKEN;
    const guest = new FakeGuest(types, (pfn) => pfn % 3 === 0);
    const plan = await planOf(guest);
    const outcome = await saveMemory(guest, output, plan);
    // The last page may be a hole, which only what follows makes part of the file.
    await output.writeAt(Uint8Array.of(0), outcome.end);

    const file = readFileSync(output.partialPath);
    const seen = new Map<number, number>();
    for (const { pfn, type, at } of entries(file, outcome.end)) {
      if (type >= BROKEN) {
        if (pfn === 5) seen.set(pfn, type);
        continue;
      }
      expect(at % PAGE).toBe(0);
      expect(seen.has(pfn)).toBe(false);
      expect(file.compare(guest.page(pfn), 0, PAGE, at, at + PAGE), `page ${pfn}`).toBe(0);
      seen.set(pfn, type);
    }
    const wanted = [...types.keys()].filter((pfn) => types[pfn] !== XTAB);
    expect([...seen.keys()].sort((a, b) => a - b)).toEqual(wanted);
    expect(seen.get(5)).toBe(BROKEN);
    expect(outcome.pages).toBe(wanted.length - 1);
    expect(outcome.zeroPages).toBe(wanted.filter((pfn) => pfn % 3 === 0).length);
  });

  test('keeps batches within the limit and within one record, several at once', async () => {
    const guest = new FakeGuest(p2m());
    guest.maxBatch = 1000;
    guest.beforeCopy = () => sleep(1);
    const plan = await planOf(guest);
    await saveMemory(guest, output, plan);
    const sizes = guest.calls.batches.map(({ pfns }) => pfns.length);
    expect(Math.max(...sizes)).toBe(1000);
    expect(sizes.reduce((a, b) => a + b, 0)).toBe(plan.layout.count);
    expect(sizes.slice(0, 5)).toEqual([1000, 1000, 1000, 1000, 94]);
    expect(guest.calls.mostAtOnce).toBeGreaterThan(1);
  });

  test('a guest without memory gives no records', async () => {
    const guest = new FakeGuest(new Uint8Array(10).fill(XTAB));
    expect(await saveMemory(guest, output, await planOf(guest))).toEqual({
      pages: 0,
      zeroPages: 0,
      end: START,
    });
  });

  test('an error ends it when no batch runs any more, with no further ones', async () => {
    const guest = new FakeGuest(p2m());
    let begun = 0;
    guest.beforeCopy = async () => {
      begun++;
      if (begun === 3) throw new OutputError('OUTPUT_WRITE', 'disk full');
      await sleep(20);
    };
    await expect(saveMemory(guest, output, await planOf(guest))).rejects.toThrow('disk full');
    expect(guest.calls.running).toBe(0);
    const after = begun;
    await sleep(40);
    expect(begun).toBe(after);
    expect(begun).toBeLessThan(10);
  });

  test('an aborted signal ends it between batches', async () => {
    const guest = new FakeGuest(p2m());
    const controller = new AbortController();
    guest.beforeCopy = async () => {
      await sleep(1);
      if (guest.calls.batches.length > 8) controller.abort();
    };
    const saving = saveMemory(guest, output, await planOf(guest), { signal: controller.signal });
    await expect(saving).rejects.toThrow(InterruptedError);
    expect(guest.calls.running).toBe(0);
    expect(guest.calls.batches.length).toBeLessThan(20);
  });

  test('tells its progress now and then, and the end', async () => {
    const guest = new FakeGuest(p2m());
    guest.beforeCopy = () => sleep(5);
    const told: Progress[] = [];
    const reporter = { ...silentReporter, progress: (progress: Progress) => told.push(progress) };
    const plan = await planOf(guest);
    await saveMemory(guest, output, plan, { reporter });
    expect(told.length).toBeGreaterThan(1);
    expect(told.length).toBeLessThan(guest.calls.batches.length / 2);
    expect(told.at(-1)).toMatchObject({
      phase: 'memory',
      unit: 'pages',
      done: plan.layout.count,
      total: plan.layout.count,
    });
    expect(told.map(({ done }) => done)).toEqual(told.map(({ done }) => done).sort((a, b) => a - b));
  });
});
