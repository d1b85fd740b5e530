import { expect, test } from 'vitest';
import { countMappings, findRoot } from '../../../lab/nested-pages.ts';

/** Tables at 0x1000, 0x2000, …: for each, its entries by index. */
function tables(...content: readonly Record<number, number>[]) {
  return async (address: number): Promise<Buffer> => {
    const page = Buffer.alloc(4096);
    for (const [index, entry] of Object.entries(content[address / 4096 - 1] ?? {})) {
      page.writeBigUInt64LE(BigInt(entry), Number(index) * 8);
    }
    return page;
  };
}

const PRESENT = 0x01;
const LARGE = 0x81;

test('counts small pages, superpages, and those of 1 GiB', async () => {
  const read = tables(
    { 0: 0x2000 + PRESENT },
    { 0: 0x3000 + PRESENT, 1: 0x40000000 + LARGE },
    { 0: 0x4000 + PRESENT, 5: 0x200000 + LARGE, 6: 0x400000 + LARGE, 7: 0x600000 },
    // Bits above the address are Xen's type of the page; bit 7 has another meaning here.
    { 0: 0x5000 + PRESENT, 1: 2 ** 52 + 0x6000 + LARGE, 2: 0x7000 },
  );
  expect(await countMappings(0x1000, read)).toEqual({ small: 2, superpages: 512 + 2 });
});

test('finds the newest root of a domain', () => {
  const dump = (domid: number, root: string): string =>
    `(XEN) >>> Domain ${domid} <<<\n(XEN) \tVCPU 0\n(XEN) H_CR3 = 0x000000000${root} CleanBits = 0\n`;
  const text = dump(1, 'aaa000') + dump(12, 'bbb000') + dump(1, 'ccc000') + dump(12, 'ddd000');
  expect(findRoot(text, 1)).toBe(0xccc000);
  expect(findRoot(text, 12)).toBe(0xddd000);
  expect(() => findRoot(text, 2)).toThrow('Xen shows no nested tables of domain 2');
});
