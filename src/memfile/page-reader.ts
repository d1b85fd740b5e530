/** Reads single pages of a memory file. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { FileSource } from '../core/byte-source.ts';

/**
 * Maximum number of bytes read at a time. While pages follow one another, each read is twice as long as the
 * last.
 */
const WINDOW = 1 << 20;
const FIRST = 4 * PAGE_SIZE;

/** Reads single pages of a file, most of which follow one another. */
export class PageReader {
  readonly #file: FileSource;
  readonly #window = Buffer.alloc(WINDOW);
  #at = 0;
  #length = 0;

  constructor(file: FileSource) {
    this.#file = file;
  }

  /** The bytes read last. A page is at `position(offset)` in it. */
  get window(): Buffer {
    return this.#window;
  }

  /** Returns where in `window` the page at a file offset is; -1 if it must be loaded first. */
  position(offset: number): number {
    const at = offset - this.#at;
    return at >= 0 && at + PAGE_SIZE <= this.#length ? at : -1;
  }

  /**
   * Loads a page into `window`, and returns its position there. Bytes after the end of the file are zeros.
   */
  async load(offset: number): Promise<number> {
    const follows = offset >= this.#at && offset <= this.#at + this.#length;
    const length = follows ? Math.min(WINDOW, Math.max(FIRST, 2 * this.#length)) : FIRST;
    this.#length = 0;
    const got = await this.#file.readAt(this.#window.subarray(0, length), offset);
    if (got < PAGE_SIZE) this.#window.fill(0, got, PAGE_SIZE);
    this.#at = offset;
    this.#length = Math.max(got, PAGE_SIZE);
    return 0;
  }
}
