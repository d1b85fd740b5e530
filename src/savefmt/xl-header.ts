import { RecordError, StreamError } from './errors.ts';
import { concat, fixed } from './fixed.ts';

/**
 * What xl puts before libxl's stream: magic, four words in the host's byte order, optional data.
 * Source: struct save_file_header in tools/xl/xl.h; written by save_domain_core_writeconfig
 * (tools/xl/xl_saverestore.c), read by create_domain (tools/xl/xl_vmcontrol.c).
 */
export interface XlHeader {
  readonly mandatoryFlags: number;
  readonly optionalFlags: number;
  /** The domain's configuration with its NUL; absent when the optional data is empty. */
  readonly config?: Uint8Array;
  /** Optional data behind the configuration; xl skips it. */
  readonly tail: Uint8Array;
}

export const XL_MAGIC = new TextEncoder().encode('Xen saved domain, xl format\n \0 \r');
/** SAVEFILE_BYTEORDER_VALUE of a little-endian host. */
export const XL_BYTE_ORDER = 0x01020304;
/** XL_MANDATORY_FLAG_*. */
export const XL_FLAG_JSON = 1;
export const XL_FLAG_STREAM_V2 = 2;
/** Longest optional data that is read; xl has no limit, a configuration has some ten KiB. */
export const MAX_XL_OPTIONAL_DATA = 4 * 1024 * 1024;

export const xlWords = fixed('little', {
  byteOrder: 'u32',
  mandatoryFlags: 'u32',
  optionalFlags: 'u32',
  optionalDataLength: 'u32',
});

const lengthWord = fixed('little', { length: 'u32' });

/** Bytes before the optional data. */
export const XL_FIXED_LENGTH = XL_MAGIC.length + xlWords.size;

/** The header as bytes. */
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
 * The header that `xl save` writes.
 * @param configJson libxl's JSON as text, without the NUL.
 * @param padding spaces between the JSON and its NUL; they move what follows to where it should stand.
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
 * The beginning of a save file with another configuration in it, which takes the room of the one that is there.
 * @param file a file of `makeXlHeader`'s, at least up to the end of its header
 * @returns as many bytes as the header has; `undefined` when the room is too small
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
 * Takes the optional data apart.
 * @param offset of the optional data in the file, for errors.
 * @throws StreamError XL_CONFIG_LENGTH
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
 * The configuration as text, without NUL and the spaces before it.
 * @throws RecordError XL_NO_CONFIG, XL_CONFIG_FORMAT (not JSON by its flag), XL_CONFIG_TEXT (not UTF-8).
 */
export function xlConfigText(header: XlHeader): string {
  const { config } = header;
  if (config === undefined) {
    throw new RecordError('XL_NO_CONFIG', 'xl header: no domain configuration in the file');
  }
  if ((header.mandatoryFlags & XL_FLAG_JSON) === 0) {
    throw new RecordError('XL_CONFIG_FORMAT', 'xl header: the domain configuration is not JSON', {
      hint: 'only files of xl 4.5 and later can be read',
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
