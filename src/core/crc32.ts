/** CRC-32 (ISO 3309). */
import zlib from 'node:zlib';

/** The polynomial of CRC-32 (ISO 3309) without its highest term, bits reversed as the CRC itself. */
const POLYNOMIAL = 0xedb88320;
/** x to the power of 8: one byte of zeros. */
const ONE_BYTE = 1 << 23;

/** Product of two polynomials modulo that of the CRC; the coefficient of x^0 is the highest bit. */
function multiply(a: number, b: number): number {
  let product = 0;
  let shifted = b;
  for (let bit = 31; bit >= 0; bit--) {
    if ((a >>> bit) & 1) product ^= shifted;
    shifted = shifted & 1 ? (shifted >>> 1) ^ POLYNOMIAL : shifted >>> 1;
  }
  return product;
}

/**
 * Computes what `crc32` gives for `count` zeros after the bytes that gave `before`. They need not exist: appending
 * n bytes of zeros multiplies the CRC's register by x^(8n).
 * @param count bytes, at most 2^53 - 1
 */
export function crc32OfZeros(count: number, before = 0): number {
  let register = ~before;
  let power = ONE_BYTE;
  for (let left = count; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) register = multiply(power, register);
    power = multiply(power, power);
  }
  return ~register >>> 0;
}

/** Bytes that are taken at once, each with a table of its own ("slicing by 8", Kounavis and Berry, 2005). */
const SLICES = 8;
const TABLE_SIZE = 256;

/** Table k, at 256 * k, has what each byte becomes with k bytes of zeros behind it. */
function makeTables(): Uint32Array {
  const tables = new Uint32Array(SLICES * TABLE_SIZE);
  for (let byte = 0; byte < TABLE_SIZE; byte++) {
    let register = byte;
    for (let bit = 0; bit < 8; bit++) {
      register = register & 1 ? (register >>> 1) ^ POLYNOMIAL : register >>> 1;
    }
    tables[byte] = register;
  }
  for (let at = TABLE_SIZE; at < tables.length; at++) {
    const before = tables[at - TABLE_SIZE] ?? 0;
    tables[at] = (before >>> 8) ^ (tables[before & 0xff] ?? 0);
  }
  return tables;
}

let tables: Uint32Array | undefined;

/**
 * Computes the CRC without node:zlib, for a Node that lacks it there.
 * @param before the CRC of what precedes the bytes
 */
export function crc32ByTables(bytes: Uint8Array, before = 0): number {
  tables ??= makeTables();
  const t = tables;
  const { length } = bytes;
  let register = ~before;
  let at = 0;
  for (; at + SLICES <= length; at += SLICES) {
    const low =
      register ^
      ((bytes[at] ?? 0) |
        ((bytes[at + 1] ?? 0) << 8) |
        ((bytes[at + 2] ?? 0) << 16) |
        ((bytes[at + 3] ?? 0) << 24));
    register =
      (t[7 * TABLE_SIZE + (low & 0xff)] ?? 0) ^
      (t[6 * TABLE_SIZE + ((low >>> 8) & 0xff)] ?? 0) ^
      (t[5 * TABLE_SIZE + ((low >>> 16) & 0xff)] ?? 0) ^
      (t[4 * TABLE_SIZE + (low >>> 24)] ?? 0) ^
      (t[3 * TABLE_SIZE + (bytes[at + 4] ?? 0)] ?? 0) ^
      (t[2 * TABLE_SIZE + (bytes[at + 5] ?? 0)] ?? 0) ^
      (t[TABLE_SIZE + (bytes[at + 6] ?? 0)] ?? 0) ^
      (t[bytes[at + 7] ?? 0] ?? 0);
  }
  for (; at < length; at++) {
    register = (register >>> 8) ^ (t[(register ^ (bytes[at] ?? 0)) & 0xff] ?? 0);
  }
  return ~register >>> 0;
}

/**
 * Computes a CRC: by node:zlib, which has it since Node 20.15 and 22.2, or by tables.
 * @param before the CRC of what precedes the bytes
 */
export const crc32: (bytes: Uint8Array, before?: number) => number =
  (zlib as { readonly crc32?: typeof zlib.crc32 }).crc32 ?? crc32ByTables;
