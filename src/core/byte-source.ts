/** Readers of bytes: from memory, files and streams. */

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';

/** A pull reader that knows its offset; nested readers of one stream share it. */
export interface ByteSource {
  /** Bytes consumed so far. */
  readonly offset: number;
  /**
   * Up to `length` bytes into a view that stays valid until the next call; shorter only at the end.
   */
  read(length: number): Promise<Uint8Array>;
  /** Skips `length` bytes; returns how many there were. */
  skip(length: number): Promise<number>;
}

/** Reads from memory. */
export class BufferSource implements ByteSource {
  offset = 0;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  read(length: number): Promise<Uint8Array> {
    const part = this.#bytes.subarray(this.offset, this.offset + length);
    this.offset += part.length;
    return Promise.resolve(part);
  }

  skip(length: number): Promise<number> {
    const there = Math.min(length, this.#bytes.length - this.offset);
    this.offset += there;
    return Promise.resolve(there);
  }
}

/** Reads a regular file through a buffer; skipping seeks. */
export class FileSource implements ByteSource, AsyncDisposable {
  offset = 0;
  /** Length of the file in bytes. */
  readonly size: number;
  /** Bytes that the file system has allocated for it. */
  readonly allocated: number;
  readonly #file: FileHandle;
  readonly #window: Uint8Array;
  #windowAt = 0;
  #windowLength = 0;

  private constructor(file: FileHandle, size: number, allocated: number, windowSize: number) {
    this.#file = file;
    this.size = size;
    this.allocated = allocated;
    this.#window = new Uint8Array(windowSize);
  }

  /**
   * Opens a regular file or a block device. A FIFO is refused: opening it would wait for a writer, and its end is not known.
   * @throws {Error} Node's error of open(2) or fstat(2); with the code ENOTSUP for what is neither
   */
  static async open(path: string, windowSize = 1 << 20): Promise<FileSource> {
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const found = await file.stat();
      const { size, blocks } = found;
      if (!found.isFile() && !found.isBlockDevice()) {
        const what = found.isDirectory() ? 'a directory' : 'neither a file nor a block device';
        throw Object.assign(new Error(`${path} is ${what}`), { code: 'ENOTSUP' });
      }
      // stat(2) counts in units of 512 bytes, whatever the file system's blocks.
      return new FileSource(file, size, 512 * blocks, windowSize);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** The file's descriptor, open until this is disposed of. */
  get fd(): number {
    return this.#file.fd;
  }

  async read(length: number): Promise<Uint8Array> {
    const wanted = Math.max(0, Math.min(length, this.size - this.offset));
    if (wanted > this.#window.length) {
      const part = new Uint8Array(wanted);
      const got = await this.readAt(part, this.offset);
      this.offset += got;
      return part.subarray(0, got);
    }
    const from = this.offset - this.#windowAt;
    if (from < 0 || from + wanted > this.#windowLength) {
      this.#windowAt = this.offset;
      this.#windowLength = await this.readAt(this.#window, this.offset);
    }
    const at = this.offset - this.#windowAt;
    const part = this.#window.subarray(at, Math.min(at + wanted, this.#windowLength));
    this.offset += part.length;
    return part;
  }

  skip(length: number): Promise<number> {
    const there = Math.max(0, Math.min(length, this.size - this.offset));
    this.offset += there;
    return Promise.resolve(there);
  }

  /**
   * Reads from any offset, without moving the own one.
   * @returns how many bytes there were; fewer than `into` holds only at the end
   */
  async readAt(into: Uint8Array, position: number): Promise<number> {
    let got = 0;
    while (got < into.length) {
      const { bytesRead } = await this.#file.read(into, got, into.length - got, position + got);
      if (bytesRead === 0) break;
      got += bytesRead;
    }
    return got;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}

/** Reads any stream of chunks: standard input, a pipe, a socket. */
export class StreamSource implements ByteSource {
  offset = 0;
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async read(length: number): Promise<Uint8Array> {
    if (this.#rest.length === 0 && length > 0) await this.#next();
    if (this.#rest.length >= length) return this.#take(length);
    // Grows with what really arrives, so a false length does not allocate.
    const parts: Uint8Array[] = [];
    let got = 0;
    while (got < length) {
      if (this.#rest.length === 0 && !(await this.#next())) break;
      const part = this.#take(length - got);
      parts.push(part);
      got += part.length;
    }
    const whole = new Uint8Array(got);
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  async skip(length: number): Promise<number> {
    let gone = 0;
    while (gone < length) {
      if (this.#rest.length === 0 && !(await this.#next())) break;
      gone += this.#take(length - gone).length;
    }
    return gone;
  }

  #take(length: number): Uint8Array {
    const part = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(part.length);
    this.offset += part.length;
    return part;
  }

  async #next(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#chunks.next();
      if (done) return false;
      this.#rest = value;
    }
    return true;
  }
}
