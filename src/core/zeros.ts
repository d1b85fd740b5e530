/** Zeros at the end of bytes. */

const ZEROS = new Uint8Array(64 * 1024);

/** Returns the length of the bytes without the zeros at their end. */
export function lengthWithoutZeros(bytes: Uint8Array): number {
  let length = bytes.length;
  while (length >= ZEROS.length && isZero(bytes.subarray(length - ZEROS.length, length)))
    length -= ZEROS.length;
  while (length > 0 && bytes[length - 1] === 0) length--;
  return length;
}

function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0;
}
