/** The header and records of libxl's stream. */
import { hex, RecordError } from './errors.ts';
import { concat, fixed } from './fixed.ts';
import { encodeRecord, OPTIONAL_BIT } from './record.ts';

/** The header of libxl's stream (libxl-migration-stream.pandoc, "Header"); always big-endian. */
export interface LibxlHeader {
  readonly version: number;
  /** LIBXL_OPTION_*; the other bits are reserved. */
  readonly options: number;
}

/** "LibxlFmt". */
export const LIBXL_IDENT = 0x4c6962786c466d74n;
export const LIBXL_VERSION = 2;
export const LIBXL_OPTION_BIG_ENDIAN = 1;
/** Set if the stream was made by the conversion tool for files of Xen 4.5 and older. */
export const LIBXL_OPTION_LEGACY = 2;

export const libxlHeader = fixed('big', { ident: 'u64', version: 'u32', options: 'u32' });

/** Types of the records of libxl's stream. */
export const LIBXL_TYPE = {
  END: 0,
  LIBXC_CONTEXT: 1,
  EMULATOR_XENSTORE_DATA: 2,
  EMULATOR_CONTEXT: 3,
  CHECKPOINT_END: 4,
  CHECKPOINT_STATE: 5,
} as const;

/** Ids in the sub-header of the emulator records. */
export const EMULATOR = { unknown: 0, qemuTraditional: 1, qemuUpstream: 2 } as const;

/** A record of libxl's stream. LIBXC_CONTEXT has no body; libxc's stream follows it. */
export type LibxlRecord =
  | { readonly name: 'END' | 'LIBXC_CONTEXT' | 'CHECKPOINT_END' }
  | {
      readonly name: 'EMULATOR_XENSTORE_DATA' | 'EMULATOR_CONTEXT';
      /** EMULATOR.* */
      readonly emulatorId: number;
      readonly index: number;
      /** Keys and values, each followed by NUL (see `xenstorePairs`), or QEMU's device state. */
      readonly data: Uint8Array;
    }
  | { readonly name: 'CHECKPOINT_STATE'; readonly controlId: number; readonly reserved: number }
  | {
      readonly name: 'OPTIONAL';
      /** Bit 31 included. */
      readonly type: number;
      readonly data: Uint8Array;
    };

const emulatorHeader = fixed('little', { emulatorId: 'u32', index: 'u32' });
const checkpointState = fixed('little', { controlId: 'u32', reserved: 'u32' });

const names = new Map<number, keyof typeof LIBXL_TYPE>(
  (Object.keys(LIBXL_TYPE) as (keyof typeof LIBXL_TYPE)[]).map((name) => [LIBXL_TYPE[name], name]),
);

/** Returns the specification's name of a record type, or its number. */
export function libxlRecordName(type: number): string {
  return names.get(type) ?? hex(type);
}

function sizeError(name: string, expected: string, got: number, offset: number): RecordError {
  return new RecordError('RECORD_SIZE', 'length of the body', {
    record: name,
    expected,
    got: `${got}`,
    offset,
  });
}

/**
 * Parses a record.
 * @param offset of the record in the stream, for errors
 * @throws {RecordError} RECORD_SIZE if the body has a wrong length; RECORD_UNKNOWN if the type is mandatory
 * and not in the specification.
 */
export function parseLibxlRecord(type: number, body: Uint8Array, offset: number): LibxlRecord {
  const name = names.get(type);
  switch (name) {
    case 'END':
    case 'LIBXC_CONTEXT':
    case 'CHECKPOINT_END':
      if (body.length !== 0) throw sizeError(name, '0', body.length, offset);
      return { name };
    case 'EMULATOR_XENSTORE_DATA':
    case 'EMULATOR_CONTEXT': {
      if (body.length < emulatorHeader.size) throw sizeError(name, 'at least 8', body.length, offset);
      return { name, ...emulatorHeader.parse(body), data: body.slice(emulatorHeader.size) };
    }
    case 'CHECKPOINT_STATE':
      if (body.length !== checkpointState.size) throw sizeError(name, '8', body.length, offset);
      return { name, ...checkpointState.parse(body) };
    default:
      if (type >= OPTIONAL_BIT) return { name: 'OPTIONAL', type, data: body.slice() };
      throw new RecordError('RECORD_UNKNOWN', `libxl record of unknown mandatory type ${hex(type)}`, {
        offset,
        hint: 'the file comes from a newer Xen, or is damaged',
      });
  }
}

/**
 * Encodes a record.
 * @throws {RangeError} If a value does not fit its field.
 */
export function encodeLibxlRecord(record: LibxlRecord, padding?: Uint8Array): Uint8Array {
  if (record.name === 'OPTIONAL') {
    if (record.type < OPTIONAL_BIT)
      throw new RangeError(`${hex(record.type)} is not an optional record type`);
    return encodeRecord(record.type, record.data, padding);
  }
  return encodeRecord(LIBXL_TYPE[record.name], encodeBody(record), padding);
}

function encodeBody(record: Exclude<LibxlRecord, { name: 'OPTIONAL' }>): Uint8Array {
  switch (record.name) {
    case 'EMULATOR_XENSTORE_DATA':
    case 'EMULATOR_CONTEXT':
      return concat(emulatorHeader.encode(record), record.data);
    case 'CHECKPOINT_STATE':
      return checkpointState.encode(record);
    default:
      return new Uint8Array(0);
  }
}

/**
 * Parses the keys and values of EMULATOR_XENSTORE_DATA. Keys are relative to the device model's directory.
 * @throws {RecordError} XENSTORE_DATA if the last string has no NUL or a key has no value.
 */
export function xenstorePairs(data: Uint8Array): [key: string, value: string][] {
  if (data.length === 0) return [];
  const parts = new TextDecoder().decode(data).split('\0');
  const record = 'EMULATOR_XENSTORE_DATA';
  if (parts.pop() !== '') throw new RecordError('XENSTORE_DATA', 'the last string has no NUL', { record });
  if (parts.length % 2 !== 0) throw new RecordError('XENSTORE_DATA', 'the last key has no value', { record });
  const pairs: [string, string][] = [];
  for (let i = 0; i < parts.length; i += 2) pairs.push([parts[i] ?? '', parts[i + 1] ?? '']);
  return pairs;
}

/** Encodes the stream's header. */
export function encodeLibxlHeader({ version, options }: LibxlHeader): Uint8Array {
  return libxlHeader.encode({ ident: LIBXL_IDENT, version, options });
}
