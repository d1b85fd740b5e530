/** A writer that knows its offset. */
export interface ByteSink {
  /** Bytes written so far. */
  readonly offset: number;
  /** Writes all of `bytes`; they may be reused once the promise is settled. */
  write(bytes: Uint8Array): Promise<void>;
}

/** Collects everything in memory. */
export class BufferSink implements ByteSink {
  offset = 0;
  #parts: Uint8Array[] = [];

  write(bytes: Uint8Array): Promise<void> {
    this.#parts.push(bytes.slice());
    this.offset += bytes.length;
    return Promise.resolve();
  }

  /** All bytes written so far, in one piece. */
  bytes(): Uint8Array {
    const whole = new Uint8Array(this.offset);
    let at = 0;
    for (const part of this.#parts) {
      whole.set(part, at);
      at += part.length;
    }
    this.#parts = [whole];
    return whole;
  }
}
