import { concat, fixed } from './fixed.ts';

/**
 * The frame that libxl's and libxc's records share: type, length of the body, body, zeros up to a multiple
 * of 8 bytes (libxc-migration-stream.pandoc and libxl-migration-stream.pandoc, "Records").
 */
export const recordHeader = fixed('little', { type: 'u32', length: 'u32' });

/** Longest body that libxc reads: REC_LENGTH_MAX of tools/libs/guest/xg_sr_stream_format.h. */
export const MAX_RECORD_LENGTH = 128 * 1024 * 1024;

/** Set in the type of records that a reader may ignore. */
export const OPTIONAL_BIT = 0x80000000;

/** Bytes of padding behind a body. */
export function paddingLength(length: number): number {
  return -length & 7;
}

/** A whole record. `padding` is only given to write back what was read. */
export function encodeRecord(type: number, body: Uint8Array, padding?: Uint8Array): Uint8Array {
  return concat(
    recordHeader.encode({ type, length: body.length }),
    body,
    padding ?? new Uint8Array(paddingLength(body.length)),
  );
}
