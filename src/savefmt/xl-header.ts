/** xl's header of a save file, and the domain configuration in it. */
import { RecordError, StreamError } from './errors.ts';
import { concat, fixed } from './fixed.ts';

/**
 * What xl writes before libxl's stream: magic number, four words in the host's byte order, optional data.
 * Source: struct save_file_header in tools/xl/xl.h; written by save_domain_core_writeconfig
 * (tools/xl/xl_saverestore.c), read by create_domain (tools/xl/xl_vmcontrol.c).
 */
export interface XlHeader {
  readonly mandatoryFlags: number;
  readonly optionalFlags: number;
  /** The domain's configuration with its NUL; absent if the optional data is empty. */
  readonly config?: Uint8Array;
  /** Optional data after the configuration; xl skips it. */
  readonly tail: Uint8Array;
}

export const XL_MAGIC = new TextEncoder().encode('Xen saved domain, xl format\n \0 \r');
/** SAVEFILE_BYTEORDER_VALUE of a little-endian host. */
export const XL_BYTE_ORDER = 0x01020304;
/** XL_MANDATORY_FLAG_*. */
export const XL_FLAG_JSON = 1;
export const XL_FLAG_STREAM_V2 = 2;
/** The longest optional data that can be read. xl has no limit; a configuration has a few dozen KiB. */
export const MAX_XL_OPTIONAL_DATA = 4 * 1024 * 1024;

export const xlWords = fixed('little', {
  byteOrder: 'u32',
  mandatoryFlags: 'u32',
  optionalFlags: 'u32',
  optionalDataLength: 'u32',
});

const lengthWord = fixed('little', { length: 'u32' });

/** Number of bytes before the optional data. */
export const XL_FIXED_LENGTH = XL_MAGIC.length + xlWords.size;

/** Encodes the header. */
export function encodeXlHeader(header: XlHeader): Uint8Array {
  const { config, tail, mandatoryFlags, optionalFlags } = header;
  const data =
    config === undefined ? tail : concat(lengthWord.encode({ length: config.length }), config, tail);
  return concat(
    XL_MAGIC,
    xlWords.encode({
      byteOrder: XL_BYTE_ORDER,
      mandatoryFlags,
      optionalFlags,
      optionalDataLength: data.length,
    }),
    data,
  );
}

/**
 * Makes the header that `xl save` writes.
 * @param configJson libxl's JSON as text, without the NUL
 * @param padding number of spaces between the JSON and its NUL; they move what follows to the offset wanted
 */
export function makeXlHeader(configJson: string, padding = 0): XlHeader {
  return {
    mandatoryFlags: XL_FLAG_JSON | XL_FLAG_STREAM_V2,
    optionalFlags: 0,
    config: new TextEncoder().encode(`${configJson}${' '.repeat(padding)}\0`),
    tail: new Uint8Array(0),
  };
}

/**
 * Replaces the configuration at the beginning of a save file, within the space that the old one takes.
 * @param file a file with a header from `makeXlHeader`, at least up to the end of that header
 * @returns as many bytes as the header has, or `undefined` if the space is too small
 */
export function replaceConfig(file: Uint8Array, configJson: string): Uint8Array | undefined {
  const start = XL_FIXED_LENGTH + lengthWord.size;
  const { length } = lengthWord.parse(file.subarray(XL_FIXED_LENGTH, start));
  const text = new TextEncoder().encode(configJson);
  if (text.length > length - 1) return undefined;
  const header = file.slice(0, start + length);
  header.fill(0x20, start, start + length - 1);
  header.set(text, start);
  return header;
}

/**
 * Splits the optional data.
 * @param offset of the optional data in the file, for errors
 * @throws {StreamError} XL_CONFIG_LENGTH if the lengths do not fit together.
 */
export function splitOptionalData(
  data: Uint8Array,
  offset: number,
): { readonly config?: Uint8Array; readonly tail: Uint8Array } {
  if (data.length === 0) return { tail: data };
  if (data.length < lengthWord.size) {
    throw new StreamError('XL_CONFIG_LENGTH', 'xl header: optional data too short for its length word', {
      offset,
      expected: 'at least 4 bytes',
      got: `${data.length}`,
    });
  }
  const { length } = lengthWord.parse(data);
  if (length > data.length - lengthWord.size) {
    throw new StreamError('XL_CONFIG_LENGTH', 'xl header: configuration longer than the optional data', {
      offset,
      expected: `at most ${data.length - lengthWord.size} bytes`,
      got: `${length}`,
    });
  }
  const end = lengthWord.size + length;
  return { config: data.slice(lengthWord.size, end), tail: data.slice(end) };
}

/**
 * Returns the configuration as text, without its NUL and the spaces before that.
 * @throws {RecordError} XL_NO_CONFIG if there is none, XL_CONFIG_FORMAT if its flag says that it is not JSON,
 * XL_CONFIG_TEXT if it is not UTF-8.
 */
export function xlConfigText(header: XlHeader): string {
  const { config } = header;
  if (config === undefined) {
    throw new RecordError('XL_NO_CONFIG', 'xl header: no domain configuration in the file');
  }
  if ((header.mandatoryFlags & XL_FLAG_JSON) === 0) {
    throw new RecordError('XL_CONFIG_FORMAT', 'xl header: the domain configuration is not JSON', {
      hint: 'xlsnap reads files of xl 4.5 and later',
    });
  }
  const nul = config.indexOf(0);
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(nul < 0 ? config : config.subarray(0, nul));
    return text.replace(/ +$/, '');
  } catch (cause) {
    throw new RecordError('XL_CONFIG_TEXT', 'xl header: the domain configuration is not UTF-8', { cause });
  }
}
