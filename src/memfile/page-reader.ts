/** Reads single pages of a memory file. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { FileSource } from '../core/byte-source.ts';

/** Bytes read at a time, at most: as long as pages follow one another it is twice as much each time. */
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

  /** What was read last. A page is at `position(offset)` of it. */
  get window(): Buffer {
    return this.#window;
  }

  /** Where in `window` the page at a file offset is; -1 when it has to be loaded first. */
  position(offset: number): number {
    const at = offset - this.#at;
    return at >= 0 && at + PAGE_SIZE <= this.#length ? at : -1;
  }

  /** Brings a page into `window`; gives its place there. Behind the end of the file there are zeros. */
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
