/** Reads the head of a record that `SlotLayout` has laid out. */
import {
  PAGE_DATA_FIXED_LENGTH,
  PAGE_DATA_TYPE,
  PAGE_TYPE,
  pageDataHeader,
  pageDataLength,
} from './page-data.ts';
import { recordHeader } from './record.ts';

/** What a record's head says. */
export interface SlotHead {
  /** pfns of its pages in the order of their slots; all have data and are of type NOTAB. */
  readonly pfns: Uint32Array;
  /** Length of the whole record in bytes. */
  readonly length: number;
}

const NOTAB_HIGH = PAGE_TYPE.notab;
const XTAB_HIGH = PAGE_TYPE.xtab * 2 ** 28;

/**
 * Reads a head.
 * @param bytes the record from its start; at least its head, unless that is longer than the caller expects
 * @returns undefined if it is not a record of a `SlotLayout` whose pages are all of type NOTAB, below pfn 2^32
 */
export function parseSlotHead(bytes: Uint8Array): SlotHead | undefined {
  if (bytes.length < PAGE_DATA_FIXED_LENGTH) return undefined;
  const { type, length } = recordHeader.parse(bytes);
  const { count, reserved } = pageDataHeader.parse(bytes.subarray(recordHeader.size));
  if (type !== PAGE_DATA_TYPE || reserved !== 0) return undefined;
  if (bytes.length < PAGE_DATA_FIXED_LENGTH + 8 * count) return undefined;
  // Little-endian, as the machines that Xen runs on; aligned, since it is a copy.
  const words = new Uint32Array(
    bytes.slice(PAGE_DATA_FIXED_LENGTH, PAGE_DATA_FIXED_LENGTH + 8 * count).buffer,
  );
  const pfns = new Uint32Array(count);
  let pages = 0;
  for (let i = 0; i < count; i++) {
    const high = words[2 * i + 1] ?? 0;
    // Entries that only fill the head come first.
    if (high === XTAB_HIGH && pages === 0) continue;
    if (high !== NOTAB_HIGH) return undefined;
    pfns[pages++] = words[2 * i] ?? 0;
  }
  if (pages === 0 || length !== pageDataLength(count, pages)) return undefined;
  return { pfns: pfns.subarray(0, pages), length: recordHeader.size + length };
}
