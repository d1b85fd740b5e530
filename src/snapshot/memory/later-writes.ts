/** Keeps writes in memory until the guest runs again. */
import { throwIfAborted } from '../../core/errors.ts';
import type { MemoryOutput } from '../output/file.ts';

/** Memory that is asked for at once. */
const CHUNK_BYTES = 64 * 1024 * 1024;

const NOTHING = new Uint8Array(0);

/**
 * Writes that wait in memory until the guest runs again: a file system that is slow, or hangs, must not keep it stopped.
 */
export class LaterWrites {
  readonly #most: () => number;
  readonly #writes: { readonly bytes: Uint8Array; readonly position: number }[] = [];
  /** What is left of the chunks that have been made. */
  readonly #chunks: Uint8Array[] = [];
  /** Bytes of all chunks that were ever made. */
  #made = 0;
  #limit: number | undefined;

  /** @param most how many bytes there may be; asked once, when the first room is made */
  constructor(most: () => number) {
    this.#most = most;
  }

  /** How many bytes there may be. */
  get limit(): number {
    return this.#limit ?? this.#most();
  }

  /** Makes room for about so many bytes, and has the kernel give the memory now: it gives it when it is touched. */
  prepare(bytes: number): void {
    let left = bytes;
    while (left > 0) {
      const chunk = this.#make(left);
      if (chunk.length === 0) return;
      chunk.fill(1);
      left -= chunk.length;
    }
  }

  /** Room for so many bytes, at most `CHUNK_BYTES`; `undefined` when there is no more. */
  take(bytes: number): Uint8Array | undefined {
    if (bytes === 0) return NOTHING;
    let at = this.#chunks.findIndex((chunk) => chunk.length >= bytes);
    if (at < 0 && this.#make(Math.max(bytes, CHUNK_BYTES)).length >= bytes) at = this.#chunks.length - 1;
    const chunk = this.#chunks[at];
    if (chunk === undefined) return undefined;
    this.#chunks[at] = chunk.subarray(bytes);
    return chunk.subarray(0, bytes);
  }

  /** Keeps a write; the bytes must not change any more. */
  add(bytes: Uint8Array, position: number): void {
    this.#writes.push({ bytes, position });
  }

  /**
   * Makes all writes, in the order in which they came, and forgets them.
   * @throws {OutputError} If a write fails
   * @throws {InterruptedError} If the signal is aborted
   */
  async writeTo(output: Pick<MemoryOutput, 'writeAt'>, signal: AbortSignal | undefined): Promise<void> {
    this.#chunks.length = 0;
    for (const { bytes, position } of this.#writes.splice(0)) {
      throwIfAborted(signal);
      await output.writeAt(bytes, position);
    }
  }

  /** A further chunk, of so many bytes unless that is more than a chunk, or than there may be. */
  #make(bytes: number): Uint8Array {
    this.#limit ??= this.#most();
    const length = Math.min(bytes, CHUNK_BYTES, this.#limit - this.#made);
    if (length <= 0) return NOTHING;
    const chunk = new Uint8Array(length);
    this.#made += length;
    this.#chunks.push(chunk);
    return chunk;
  }
}
