/** Sums up one stretch of a file after the other, piece by piece. */
import type { IHasher } from 'hash-wasm';
import { crc32, crc32OfZeros } from '../core/crc32.ts';
import { lengthWithoutZeros } from '../core/zeros.ts';

/** See `Checksums`. */
export type ChecksumAlgorithm = 'xxh3' | 'crc32';

/** Hexadecimal digits of one sum. */
export const SUM_DIGITS: Readonly<Record<ChecksumAlgorithm, number>> = { xxh3: 16, crc32: 8 };

/** Computes sums, one after the other. */
export interface Summer {
  /** Adds bytes that follow. */
  add(bytes: Uint8Array): void;
  /** Adds that many zeros. */
  addZeros(count: number): void;
  /** Returns the sum in hexadecimal digits, and begins the next one. */
  take(): string;
}

/** Makes a summer for an algorithm. */
export async function makeSummer(algorithm: ChecksumAlgorithm): Promise<Summer> {
  if (algorithm === 'crc32') return new Crc32Summer();
  // Loaded when it is needed: a guest may wait for the command to start.
  const { createXXHash3 } = await import('hash-wasm');
  return new Xxh3Summer(await createXXHash3());
}

/** CRC-32 (ISO 3309): of manifests that earlier versions wrote. */
class Crc32Summer implements Summer {
  #sum = 0;

  add(bytes: Uint8Array): void {
    this.#sum = crc32(bytes, this.#sum);
  }

  addZeros(count: number): void {
    this.#sum = crc32OfZeros(count, this.#sum);
  }

  take(): string {
    const sum = this.#sum.toString(16).padStart(SUM_DIGITS.crc32, '0');
    this.#sum = 0;
    return sum;
  }
}

const ZEROS = new Uint8Array(64 * 1024);

/** XXH3 with 64 bits, of a stretch without the zeros at its end: holes, which are there, cost nothing. */
class Xxh3Summer implements Summer {
  readonly #hash: IHasher;
  /** Zeros that count if anything else follows. */
  #zeros = 0;

  constructor(hash: IHasher) {
    this.#hash = hash;
    this.#hash.init();
  }

  add(bytes: Uint8Array): void {
    const length = lengthWithoutZeros(bytes);
    if (length > 0) {
      for (; this.#zeros > 0; this.#zeros -= Math.min(this.#zeros, ZEROS.length)) {
        this.#hash.update(ZEROS.subarray(0, Math.min(this.#zeros, ZEROS.length)));
      }
      this.#hash.update(bytes.subarray(0, length));
    }
    this.#zeros += bytes.length - length;
  }

  addZeros(count: number): void {
    this.#zeros += count;
  }

  take(): string {
    const sum = this.#hash.digest('hex');
    this.#hash.init();
    this.#zeros = 0;
    return sum;
  }
}
