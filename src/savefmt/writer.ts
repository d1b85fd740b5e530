/** Writes a stream item by item. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { ByteSink } from '../core/byte-sink.ts';
import { StreamError } from './errors.ts';
import type { StreamFormat, StreamItem } from './items.ts';
import { encodeLibxcHeaders, encodeLibxcRecord, type PageData } from './libxc.ts';
import { encodeLibxlHeader, encodeLibxlRecord } from './libxl.ts';
import { OrderRules } from './order.ts';
import { encodePageDataHead, pageDataLength } from './page-data.ts';
import { MAX_RECORD_LENGTH } from './record.ts';
import { encodeXlHeader } from './xl-header.ts';

/** Appends items to a sink: what a reader yielded, byte for byte, or a stream of the caller's own. */
export class StreamWriter {
  readonly #sink: ByteSink;
  readonly #order: OrderRules;

  constructor(sink: ByteSink, format: StreamFormat = 'xl') {
    this.#sink = sink;
    this.#order = new OrderRules(format);
  }

  /** Whether the outermost END has been written. */
  get done(): boolean {
    return this.#order.done;
  }

  /**
   * Writes the next item, and the pages of a PAGE_DATA record as they come.
   * @throws {StreamError} RECORD_ORDER, or another code of `OrderRules`, if Xen's restore would refuse the
   * item here.
   * @throws {RangeError} If a value does not fit its field, or the pages are not those that the words call
   * for.
   */
  async write(item: StreamItem): Promise<void> {
    const problem = this.#order.check(item).find(({ severity }) => severity === 'error');
    if (problem !== undefined)
      throw new StreamError(problem.code, problem.message, { offset: this.#sink.offset });
    switch (item.kind) {
      case 'xl-header':
        return this.#sink.write(encodeXlHeader(item.header));
      case 'libxl-header':
        return this.#sink.write(encodeLibxlHeader(item.header));
      case 'libxl-record':
        return this.#sink.write(encodeLibxlRecord(item.record, item.padding));
      case 'libxc-headers':
        return this.#sink.write(encodeLibxcHeaders(item.image, item.domain));
      case 'libxc-record':
        if (item.record.name === 'PAGE_DATA') return this.#pageData(item.record);
        return this.#sink.write(encodeLibxcRecord(item.record, item.padding));
    }
  }

  async #pageData({ words, reserved, pages }: PageData): Promise<void> {
    const dataPages = words.dataPages();
    if (words.count === 0) throw new RangeError('a PAGE_DATA record without entries');
    if (pageDataLength(words.count, dataPages) > MAX_RECORD_LENGTH) {
      throw new RangeError(`${words.count} entries are too many for one PAGE_DATA record`);
    }
    await this.#sink.write(encodePageDataHead(words, reserved));
    let left = dataPages * PAGE_SIZE;
    for await (const chunk of pages) {
      left -= chunk.length;
      if (left < 0) break;
      await this.#sink.write(chunk);
    }
    if (left !== 0)
      throw new RangeError(`the pages of a record are not the ${dataPages} that its words call for`);
  }
}
