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

/** What stands before the first PAGE_DATA record of a save file. */
export interface PrefixOptions {
  /** libxl's JSON of the domain's configuration, without NUL. */
  readonly configJson: string;
  readonly guestType: StreamGuestType;
  readonly xenMajor: number;
  readonly xenMinor: number;
  /** What is invariant of the guest's execution: PV info (PV), CPUID and MSR policy. */
  readonly staticRecords: readonly LibxcStateRecord[];
  /** What follows STATIC_DATA_END: the p2m frames (PV). */
  readonly startRecords?: readonly LibxcStateRecord[];
  /** The prefix is brought to a multiple of so many bytes, by spaces behind the JSON. Default 4096. */
  readonly alignment?: number;
}

/**
 * The whole file up to the first PAGE_DATA record: xl header, libxl header, LIBXC_CONTEXT, image and domain
 * header, static records, STATIC_DATA_END, start records. Its length is where the first record stands.
 * @throws RangeError when a value does not fit its field.
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
 * The rest of the file behind the last PAGE_DATA record: state, END of libxc's stream, libxl's records, END.
 * `records`, HVM: X86_TSC_INFO, HVM_CONTEXT, HVM_PARAMS; PV: X86_TSC_INFO, SHARED_INFO, vCPUs.
 * `libxlRecords`, HVM: EMULATOR_XENSTORE_DATA, EMULATOR_CONTEXT.
 */
export function encodeSuffix({
  records,
  libxlRecords = [],
}: {
  readonly records: readonly LibxcStateRecord[];
  readonly libxlRecords?: readonly LibxlRecord[];
}): Uint8Array {
  return concat(
    ...records.map((record) => encodeLibxcRecord(record)),
    encodeLibxcRecord({ name: 'END' }),
    ...libxlRecords.map((record) => encodeLibxlRecord(record)),
    encodeLibxlRecord({ name: 'END' }),
  );
}
