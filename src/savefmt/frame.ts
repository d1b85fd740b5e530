/** Encodes what precedes and what follows the guest's pages in a save file. */
import { PAGE_SIZE } from '../core/brand.ts';
import { concat } from './fixed.ts';
import {
  encodeLibxcHeaders,
  encodeLibxcRecord,
  type LibxcStateRecord,
  makeLibxcHeaders,
  type StreamGuestType,
} from './libxc.ts';
import { encodeLibxlHeader, encodeLibxlRecord, LIBXL_VERSION, type LibxlRecord } from './libxl.ts';
import { encodeXlHeader, makeXlHeader } from './xl-header.ts';

/** What precedes the first PAGE_DATA record of a save file. */
export interface PrefixOptions {
  /** libxl's JSON of the domain's configuration, without NUL. */
  readonly configJson: string;
  readonly guestType: StreamGuestType;
  readonly xenMajor: number;
  readonly xenMinor: number;
  /** State that never changes while the guest runs: PV info (PV), CPUID and MSR policy. */
  readonly staticRecords: readonly LibxcStateRecord[];
  /** Records that follow STATIC_DATA_END: the p2m frames (PV). */
  readonly startRecords?: readonly LibxcStateRecord[];
  /** The prefix is padded to a multiple of this many bytes, by spaces after the JSON. Default: 4096. */
  readonly alignment?: number;
}

/**
 * Encodes the file up to its first PAGE_DATA record: xl header, libxl header, LIBXC_CONTEXT, image and domain
 * header, static records, STATIC_DATA_END, start records. The length of the result is the offset of the first
 * PAGE_DATA record.
 * @throws {RangeError} If a value does not fit its field.
 */
export function encodePrefix(options: PrefixOptions): Uint8Array {
  const { configJson, guestType, xenMajor, xenMinor, staticRecords, startRecords = [] } = options;
  const { image, domain } = makeLibxcHeaders(guestType, xenMajor, xenMinor);
  const stream = concat(
    encodeLibxlHeader({ version: LIBXL_VERSION, options: 0 }),
    encodeLibxlRecord({ name: 'LIBXC_CONTEXT' }),
    encodeLibxcHeaders(image, domain),
    ...[...staticRecords, { name: 'STATIC_DATA_END' } as const, ...startRecords].map((record) =>
      encodeLibxcRecord(record),
    ),
  );
  const length = encodeXlHeader(makeXlHeader(configJson)).length + stream.length;
  const { alignment = PAGE_SIZE } = options;
  const padding = Math.ceil(length / alignment) * alignment - length;
  return concat(encodeXlHeader(makeXlHeader(configJson, padding)), stream);
}

/**
 * Encodes the rest of the file, after the last PAGE_DATA record: state, the END of libxc's stream, libxl's
 * records, END.
 */
export function encodeSuffix({
  records,
  libxlRecords = [],
}: {
  /** HVM: X86_TSC_INFO, HVM_CONTEXT, HVM_PARAMS; PV: X86_TSC_INFO, SHARED_INFO, vCPUs. */
  readonly records: readonly LibxcStateRecord[];
  /** HVM: EMULATOR_XENSTORE_DATA, EMULATOR_CONTEXT. */
  readonly libxlRecords?: readonly LibxlRecord[];
}): Uint8Array {
  return concat(
    ...records.map((record) => encodeLibxcRecord(record)),
    encodeLibxcRecord({ name: 'END' }),
    ...libxlRecords.map((record) => encodeLibxlRecord(record)),
    encodeLibxlRecord({ name: 'END' }),
  );
}
