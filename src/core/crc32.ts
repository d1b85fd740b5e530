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
 * Computes what `crc32` of node:zlib gives for `count` zeros after the bytes that gave `before`. They need not exist: appending
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
