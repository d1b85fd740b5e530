/** How much space a memory file will need. */
import { PAGE_SIZE } from '../../core/brand.ts';
import { PAGE_KIND } from '../../core/page-kind.ts';
import { hasPageData } from '../../savefmt/index.ts';
import type { Guest } from '../ports.ts';

/** Number of sampled pages: enough to know the share of zeros to within 3 %. */
const SAMPLE = 2048;
/** Maximum number of draws, if a p2m has few pages. */
const DRAWS = 64;
/** How many standard deviations an estimate may be off by. */
const SIGMAS = 3;

/** The share of a guest's pages that are not zeros: bounds estimated from a sample. */
export interface DataShare {
  readonly least: number;
  readonly most: number;
}

/**
 * Estimates the share from pages drawn at random. Reads only; the guest may run.
 * @param random returns numbers from 0 (inclusive) to 1 (exclusive)
 * @throws {DomainError} If the guest no longer exists
 */
export async function sampleData(guest: Guest, random: () => number = Math.random): Promise<DataShare> {
  const zeros = new Uint8Array(PAGE_SIZE);
  const count = Math.min(guest.maxBatch, SAMPLE);
  const buffer = new Uint8Array(count * PAGE_SIZE);
  let seen = 0;
  let data = 0;
  for (let draw = 0; draw < DRAWS && seen < SAMPLE; draw++) {
    const drawn = Uint32Array.from({ length: count }, () => Math.floor(random() * guest.p2mSize));
    const types = await guest.pageTypes(drawn);
    const pfns = drawn.filter((_, i) => hasPageData(types[i] ?? 0));
    const kinds = pfns.length === 0 ? new Uint8Array(0) : await guest.readPages(pfns, buffer);
    for (const [i, kind] of kinds.entries()) {
      if (kind !== PAGE_KIND.data) continue;
      seen++;
      if (Buffer.compare(zeros, buffer.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE)) !== 0) data++;
    }
  }
  if (seen === 0) return { least: 0, most: 1 };
  const share = data / seen;
  const error = SIGMAS * Math.sqrt((share * (1 - share)) / seen);
  return { least: Math.max(0, share - error), most: Math.min(1, share + error) };
}
