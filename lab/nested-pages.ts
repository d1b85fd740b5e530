/**
 * Counts the pages by which a HVM or PVH guest's memory is mapped, from the machine's own memory: Xen reports them nowhere.
 * The tables are AMD's (APM volume 2, "Nested Paging"), which is what software emulation offers to Xen.
 */
import { LabError } from './errors.ts';

/** Number of mappings of each size. */
export interface Mappings {
  /** Of 4 KiB. */
  readonly small: number;
  /** Superpages of 2 MiB; one of 1 GiB counts as 512. */
  readonly superpages: number;
}

/** Reads one page of the machine's memory. */
export type ReadPage = (address: number) => Promise<Buffer>;

const PRESENT = 1n << 0n;
const PAGE_SIZE_BIT = 1n << 7n;
const ADDRESS = 0x000f_ffff_ffff_f000n;

/**
 * Finds the root of a domain's tables in what Xen's debug key `v` prints.
 * @throws {LabError} If it is not there.
 */
export function findRoot(dmesg: string, domid: number): number {
  const printed = dmesg.slice(dmesg.lastIndexOf(`>>> Domain ${domid} <<<`));
  const root = printed.startsWith('>>>') ? /H_CR3 = 0x([0-9a-f]+)/.exec(printed)?.[1] : undefined;
  if (root === undefined) throw new LabError('command', `Xen shows no nested tables of domain ${domid}`);
  return Number.parseInt(root, 16);
}

/** Counts the mappings below a table of four levels. */
export async function countMappings(root: number, read: ReadPage): Promise<Mappings> {
  let small = 0;
  let superpages = 0;
  const walk = async (address: number, level: number): Promise<void> => {
    const table = await read(address);
    for (let at = 0; at < table.length; at += 8) {
      const entry = table.readBigUInt64LE(at);
      if ((entry & PRESENT) === 0n) continue;
      if (level === 1) small += 1;
      else if ((entry & PAGE_SIZE_BIT) === 0n) await walk(Number(entry & ADDRESS), level - 1);
      else superpages += level === 3 ? 512 : 1;
    }
  };
  await walk(root, 4);
  return { small, superpages };
}
