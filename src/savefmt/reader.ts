/** Reads a stream item by item, in bounded memory. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { ByteSource } from '../core/byte-source.ts';
import { throwIfAborted } from '../core/errors.ts';
import { hex, RecordError, StreamError } from './errors.ts';
import type { LocatedItem, StreamFormat, StreamItem } from './items.ts';
import {
  domainHeader,
  GUEST_TYPE,
  imageHeader,
  LIBXC_ID,
  LIBXC_MARKER,
  LIBXC_OPTION_BIG_ENDIAN,
  LIBXC_VERSION,
  LIBXC_VERSION_MIN,
  libxcRecordName,
  PAGE_SHIFT,
  type PageData,
  parseLibxcRecord,
  type StreamGuestType,
} from './libxc.ts';
import {
  LIBXL_IDENT,
  LIBXL_OPTION_BIG_ENDIAN,
  LIBXL_VERSION,
  libxlHeader,
  libxlRecordName,
  parseLibxlRecord,
} from './libxl.ts';
import { Nesting } from './order.ts';
import {
  isPageType,
  PAGE_DATA_FIXED_LENGTH,
  PAGE_DATA_TYPE,
  PfnWords,
  pageDataHeader,
  pageDataLength,
  pageTypeName,
} from './page-data.ts';
import { MAX_RECORD_LENGTH, paddingLength, recordHeader } from './record.ts';
import {
  MAX_XL_OPTIONAL_DATA,
  splitOptionalData,
  XL_BYTE_ORDER,
  XL_FIXED_LENGTH,
  XL_FLAG_JSON,
  XL_FLAG_STREAM_V2,
  XL_MAGIC,
  type XlHeader,
  xlWords,
} from './xl-header.ts';

/** Bytes of page data that are handed out at a time. */
const PAGES_CHUNK = 256 * PAGE_SIZE;

/**
 * Maximum number of pfn words in a record, so that a record of nothing but words stays small in memory. libxc
 * writes 1024, and a record full of pages has at most 32703.
 */
const MAX_PFN_WORDS = 1024 * 1024;

export interface ReadOptions {
  /** The outermost format. Default: `xl`. */
  readonly format?: StreamFormat;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Yields the items of a stream, up to the outermost END, and leaves the source right after it.
 *
 * Holds one record at a time, and never the pages. Those of a PAGE_DATA record can be read from its `pages`
 * until the next item is asked for, and are skipped otherwise. Checks what is needed to continue reading, but
 * neither the order of records nor reserved fields: `verifyStream` does.
 * @throws {StreamError} If the structure is broken.
 * @throws {RecordError} If a record is impossible. Both have the offset.
 * @throws {InterruptedError} If the source was interrupted.
 */
export async function* readStream(
  source: ByteSource,
  options: ReadOptions = {},
): AsyncGenerator<LocatedItem> {
  const reader = new Reader(source);
  const nesting = new Nesting(options.format ?? 'xl');
  while (nesting.next !== 'done') {
    throwIfAborted(options.signal);
    const offset = reader.offset;
    const item = await reader.item(nesting.next);
    nesting.advance(item);
    yield { ...item, offset };
    if (item.kind === 'libxc-record' && item.record.name === 'PAGE_DATA') await reader.leavePages();
  }
}

/**
 * Reads only xl's header, and leaves the source at libxl's stream.
 * @throws {StreamError} If it is not a header that can be read.
 */
export function readXlHeader(source: ByteSource): Promise<XlHeader> {
  return new Reader(source).xlHeader();
}

class Reader {
  readonly #source: ByteSource;
  readonly #start: number;
  #pages: RecordPages | undefined;

  constructor(source: ByteSource) {
    this.#source = source;
    this.#start = source.offset;
  }

  get offset(): number {
    return this.#source.offset - this.#start;
  }

  async item(kind: StreamItem['kind']): Promise<StreamItem> {
    switch (kind) {
      case 'xl-header':
        return { kind, header: await this.xlHeader() };
      case 'libxl-header':
        return this.#libxlHeader();
      case 'libxl-record':
        return this.#libxlRecord();
      case 'libxc-headers':
        return this.#libxcHeaders();
      case 'libxc-record':
        return this.#libxcRecord();
    }
  }

  /** Skips the pages of the last record that were not read. */
  async leavePages(): Promise<void> {
    await this.#pages?.leave();
    this.#pages = undefined;
  }

  async #exactly(length: number, what: string): Promise<Uint8Array> {
    const offset = this.offset;
    const bytes = await this.#source.read(length);
    if (bytes.length < length) throw truncated(what, length, bytes.length, offset);
    return bytes;
  }

  async xlHeader(): Promise<XlHeader> {
    const offset = this.offset;
    const bytes = await this.#exactly(XL_FIXED_LENGTH, 'xl header');
    if (!XL_MAGIC.every((byte, i) => byte === bytes[i])) {
      const kind = kindOf(bytes);
      throw new StreamError(
        'XL_MAGIC',
        `not a save file of xl: ${kind === undefined ? 'wrong magic number' : `it is ${kind.name}`}`,
        { offset, hint: kind?.hint ?? 'give a file that xl save or xlsnap wrote' },
      );
    }
    const { byteOrder, mandatoryFlags, optionalFlags, optionalDataLength } = xlWords.parse(
      bytes.subarray(XL_MAGIC.length),
    );
    if (byteOrder !== XL_BYTE_ORDER) {
      throw new StreamError('BIG_ENDIAN', 'xl header: byte order', {
        offset: offset + XL_MAGIC.length,
        expected: hex(XL_BYTE_ORDER),
        got: hex(byteOrder),
      });
    }
    const flagsAt = { offset: offset + XL_MAGIC.length + 4, got: hex(mandatoryFlags) };
    if ((mandatoryFlags & ~(XL_FLAG_JSON | XL_FLAG_STREAM_V2)) !== 0) {
      throw new StreamError('XL_FLAGS', 'xl header: unknown mandatory flags', {
        ...flagsAt,
        expected: 'only bits 0 and 1',
        hint: 'the file comes from a newer xl',
      });
    }
    if ((mandatoryFlags & XL_FLAG_STREAM_V2) === 0) {
      throw new StreamError('XL_LEGACY', 'xl header: a stream in the legacy format of Xen 4.5 and older', {
        ...flagsAt,
        expected: 'bit 1 set',
        hint: 'convert it with convert-legacy-stream of xen-utils',
      });
    }
    if (optionalDataLength > MAX_XL_OPTIONAL_DATA) {
      throw new StreamError('XL_CONFIG_LENGTH', 'xl header: length of the optional data', {
        offset: offset + XL_MAGIC.length + 12,
        expected: `at most ${MAX_XL_OPTIONAL_DATA}`,
        got: `${optionalDataLength}`,
      });
    }
    const data = await this.#exactly(optionalDataLength, 'optional data of the xl header');
    const optional = splitOptionalData(data, offset + XL_FIXED_LENGTH);
    return { mandatoryFlags, optionalFlags, ...optional };
  }

  async #libxlHeader(): Promise<StreamItem> {
    const offset = this.offset;
    const { ident, version, options } = libxlHeader.parse(
      await this.#exactly(libxlHeader.size, 'libxl header'),
    );
    if (ident !== LIBXL_IDENT) {
      throw new StreamError('LIBXL_IDENT', 'libxl header: ident', {
        offset,
        expected: hex(LIBXL_IDENT, 16),
        got: hex(ident, 16),
      });
    }
    if (version !== LIBXL_VERSION) {
      throw new StreamError('LIBXL_VERSION', 'libxl header: version', {
        offset: offset + 8,
        expected: `${LIBXL_VERSION}`,
        got: `${version}`,
      });
    }
    if ((options & LIBXL_OPTION_BIG_ENDIAN) !== 0) throw bigEndian('libxl header', offset + 12);
    return { kind: 'libxl-header', header: { version, options } };
  }

  async #libxcHeaders(): Promise<StreamItem> {
    const offset = this.offset;
    const { marker, id, ...image } = imageHeader.parse(await this.#exactly(imageHeader.size, 'image header'));
    if (marker !== LIBXC_MARKER) {
      throw new StreamError('LIBXC_MARKER', 'image header: marker', {
        offset,
        expected: hex(LIBXC_MARKER, 16),
        got: hex(marker, 16),
      });
    }
    if (id !== LIBXC_ID) {
      throw new StreamError('LIBXC_ID', 'image header: id', {
        offset: offset + 8,
        expected: hex(LIBXC_ID),
        got: hex(id),
      });
    }
    if (image.version < LIBXC_VERSION_MIN || image.version > LIBXC_VERSION) {
      throw new StreamError('LIBXC_VERSION', 'image header: version', {
        offset: offset + 12,
        expected: `${LIBXC_VERSION_MIN} or ${LIBXC_VERSION}`,
        got: `${image.version}`,
      });
    }
    if ((image.options & LIBXC_OPTION_BIG_ENDIAN) !== 0) throw bigEndian('image header', offset + 16);

    const domainAt = this.offset;
    const { type, ...domain } = domainHeader.parse(await this.#exactly(domainHeader.size, 'domain header'));
    const guestType = (Object.keys(GUEST_TYPE) as StreamGuestType[]).find(
      (name) => GUEST_TYPE[name] === type,
    );
    if (guestType === undefined) {
      throw new StreamError('DOMAIN_TYPE', 'domain header: type', {
        offset: domainAt,
        expected: '1 (PV) or 2 (HVM)',
        got: `${type}`,
      });
    }
    if (domain.pageShift !== PAGE_SHIFT) {
      throw new StreamError('PAGE_SHIFT', 'domain header: page shift', {
        offset: domainAt + 4,
        expected: `${PAGE_SHIFT}`,
        got: `${domain.pageShift}`,
      });
    }
    return { kind: 'libxc-headers', image, domain: { guestType, ...domain } };
  }

  async #libxlRecord(): Promise<StreamItem> {
    const offset = this.offset;
    const { type, length } = await this.#recordHeader('libxl', libxlRecordName);
    const { body, padding } = await this.#body(length, libxlRecordName(type));
    return { kind: 'libxl-record', record: parseLibxlRecord(type, body, offset), ...padding };
  }

  async #libxcRecord(): Promise<StreamItem> {
    const offset = this.offset;
    const { type, length } = await this.#recordHeader('libxc', libxcRecordName);
    if (type === PAGE_DATA_TYPE)
      return { kind: 'libxc-record', record: await this.#pageData(length, offset) };
    const { body, padding } = await this.#body(length, libxcRecordName(type));
    return { kind: 'libxc-record', record: parseLibxcRecord(type, body, offset), ...padding };
  }

  async #recordHeader(level: string, nameOf: (type: number) => string) {
    const offset = this.offset;
    const header = recordHeader.parse(await this.#exactly(recordHeader.size, `header of a ${level} record`));
    if (header.length > MAX_RECORD_LENGTH) {
      throw new StreamError('RECORD_LENGTH', 'length of the body', {
        record: nameOf(header.type),
        offset,
        expected: `at most ${MAX_RECORD_LENGTH}`,
        got: `${header.length}`,
      });
    }
    return header;
  }

  async #body(length: number, name: string) {
    const bytes = await this.#exactly(length + paddingLength(length), `body of ${name}`);
    const padding = bytes.subarray(length);
    return {
      body: bytes.subarray(0, length),
      padding: padding.every((byte) => byte === 0) ? {} : { padding: padding.slice() },
    };
  }

  async #pageData(length: number, offset: number): Promise<PageData> {
    const record = 'PAGE_DATA';
    if (length < pageDataHeader.size) {
      throw new RecordError('RECORD_SIZE', 'length of the body', {
        record,
        offset,
        expected: 'more than 8',
        got: `${length}`,
      });
    }
    const { count, reserved } = pageDataHeader.parse(
      await this.#exactly(pageDataHeader.size, 'body of PAGE_DATA'),
    );
    const room = Math.min(MAX_PFN_WORDS, Math.floor((length - pageDataHeader.size) / 8));
    if (count < 1 || count > room) {
      throw new RecordError('RECORD_COUNT', `count in a body of ${length} bytes`, {
        record,
        offset: offset + recordHeader.size,
        expected: `1 to ${room}`,
        got: `${count}`,
      });
    }
    const words = new PfnWords((await this.#exactly(8 * count, 'pfn words of PAGE_DATA')).slice());
    for (let i = 0; i < count; i++) {
      if (isPageType(words.type(i))) continue;
      throw new RecordError('PAGE_TYPE', `type of entry ${i}`, {
        record,
        offset: offset + PAGE_DATA_FIXED_LENGTH + 8 * i,
        expected: 'a type that the specification knows',
        got: pageTypeName(words.type(i)),
      });
    }
    const dataPages = words.dataPages();
    const expected = pageDataLength(count, dataPages);
    if (length !== expected) {
      throw new RecordError('RECORD_SIZE', 'length of the body', {
        record,
        offset,
        expected: `${expected} for ${count} entries, ${dataPages} of them with data`,
        got: `${length}`,
      });
    }
    this.#pages = new RecordPages(this.#source, dataPages * PAGE_SIZE, this.#start);
    return { name: record, reserved, words, pages: this.#pages };
  }
}

/** The pages of the record that is being read. */
class RecordPages implements AsyncIterable<Uint8Array> {
  readonly #source: ByteSource;
  readonly #start: number;
  #left: number;
  #open = true;

  constructor(source: ByteSource, length: number, start: number) {
    this.#source = source;
    this.#left = length;
    this.#start = start;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    while (true) {
      if (!this.#open) throw new TypeError('the pages of a record must be read before the next item');
      if (this.#left === 0) return;
      const length = Math.min(PAGES_CHUNK, this.#left);
      const at = this.#source.offset - this.#start;
      const chunk = await this.#source.read(length);
      if (chunk.length < length) throw truncated('pages of PAGE_DATA', this.#left, chunk.length, at);
      this.#left -= length;
      yield chunk;
    }
  }

  async leave(): Promise<void> {
    this.#open = false;
    const at = this.#source.offset - this.#start;
    const skipped = await this.#source.skip(this.#left);
    if (skipped < this.#left) throw truncated('pages of PAGE_DATA', this.#left, skipped, at);
  }
}

function truncated(what: string, expected: number, got: number, offset: number): StreamError {
  return new StreamError('TRUNCATED', `the stream ends in the ${what}`, {
    offset,
    expected: `${expected} bytes`,
    got: `${got}`,
    hint: 'the save was interrupted or the copy is incomplete',
  });
}

function bigEndian(where: string, offset: number): StreamError {
  return new StreamError('BIG_ENDIAN', `${where}: a big-endian stream`, {
    offset,
    hint: 'Xen on x86 cannot restore it either',
  });
}

/** What a file is that is not a save file, where people mix them up. */
const OTHER_KINDS: readonly { readonly magic: string; readonly name: string; readonly hint?: string }[] = [
  { magic: '1f8b', name: 'compressed with gzip', hint: 'decompress it first: gunzip -k' },
  { magic: '28b52ffd', name: 'compressed with zstd', hint: 'decompress it first: unzstd' },
  { magic: 'fd377a585a00', name: 'compressed with xz', hint: 'decompress it first: unxz -k' },
  { magic: '04224d18', name: 'compressed with lz4', hint: 'decompress it first: unlz4' },
  { magic: '514649fb', name: 'a qcow2 image', hint: 'give the memory file, which ends in .save by default' },
];

function kindOf(bytes: Uint8Array): (typeof OTHER_KINDS)[number] | undefined {
  const start = Buffer.from(bytes.subarray(0, 8)).toString('hex');
  return OTHER_KINDS.find(({ magic }) => start.startsWith(magic));
}
