/** Sums up one stretch of a file after the other, piece by piece. */
import { crc32, crc32OfZeros } from '../core/crc32.ts';
import { lengthWithoutZeros } from '../core/zeros.ts';

/** See `Checksums`. */
export type ChecksumAlgorithm = 'xxh3' | 'crc32';

/** Hexadecimal digits of one sum. */
export const SUM_DIGITS: Readonly<Record<ChecksumAlgorithm, number>> = { xxh3: 16, crc32: 8 };

/** XXH3 (64 bits, seed 0), one sum after the other. */
export interface Xxh3 extends Disposable {
  /** Adds bytes that follow. */
  update(bytes: Uint8Array): void;
  /** Returns the sum, 16 hexadecimal digits, and begins the next one. */
  take(): string;
}

/** Makes what computes XXH3 faster than WebAssembly does; `undefined` if nothing on this machine does. */
export type MakeXxh3 = () => Promise<Xxh3 | undefined>;

/** Computes sums, one after the other. */
export interface Summer extends Disposable {
  /** Adds bytes that follow. */
  add(bytes: Uint8Array): void;
  /** Adds that many zeros. */
  addZeros(count: number): void;
  /** Returns the sum in hexadecimal digits, and begins the next one. */
  take(): string;
}

/**
 * Makes a summer for an algorithm.
 * @param makeXxh3 Default: WebAssembly computes it
 */
export async function makeSummer(algorithm: ChecksumAlgorithm, makeXxh3?: MakeXxh3): Promise<Summer> {
  if (algorithm === 'crc32') return new Crc32Summer();
  return new Xxh3Summer((await makeXxh3?.()) ?? (await makeWasmXxh3()));
}

async function makeWasmXxh3(): Promise<Xxh3> {
  // Loaded when it is needed: a guest may wait for the command to start.
  const { createXXHash3 } = await import('hash-wasm');
  const hash = await createXXHash3();
  return {
    update: (bytes) => void hash.update(bytes),
    take: () => {
      const sum = hash.digest('hex');
      hash.init();
      return sum;
    },
    [Symbol.dispose]: () => {},
  };
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

  [Symbol.dispose](): void {}
}

const ZEROS = new Uint8Array(64 * 1024);

/** XXH3 with 64 bits, of a stretch without the zeros at its end: holes, which are there, cost nothing. */
class Xxh3Summer implements Summer {
  readonly #hash: Xxh3;
  /** Zeros that count if anything else follows. */
  #zeros = 0;

  constructor(hash: Xxh3) {
    this.#hash = hash;
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
    this.#zeros = 0;
    return this.#hash.take();
  }

  [Symbol.dispose](): void {
    this.#hash[Symbol.dispose]();
  }
}
