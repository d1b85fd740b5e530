import { expect } from 'vitest';

const PAGE = 4096;
const BROKEN = 13;

/** One entry of a PAGE_DATA record. */
export interface PageEntry {
  readonly pfn: number;
  readonly type: number;
  /** Bytes of the file at the page. */
  readonly at: number;
}

/** Reads the entries of all PAGE_DATA records in [start, end), without src/savefmt. */
export function pageEntries(file: Uint8Array, start: number, end: number): PageEntry[] {
  return pageRecords(file, start, end).flat();
}

/** The same, record by record. */
export function pageRecords(file: Uint8Array, start: number, end: number): PageEntry[][] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const records: PageEntry[][] = [];
  let at = start;
  while (at < end) {
    expect(view.getUint32(at, true), `record type at ${at}`).toBe(1);
    const body = at + 8;
    const length = view.getUint32(at + 4, true);
    const count = view.getUint32(body, true);
    let page = body + 8 + 8 * count;
    const found: PageEntry[] = [];
    for (let i = 0; i < count; i++) {
      const word = view.getBigUint64(body + 8 + 8 * i, true);
      const type = Number(word >> 60n);
      found.push({ pfn: Number(word & 0xfffffffffffffn), type, at: page });
      if (type < BROKEN) page += PAGE;
    }
    expect(page - body).toBe(length);
    records.push(found);
    at = body + length;
  }
  expect(at).toBe(end);
  return records;
}
