/** The headers and records of libxc's stream, except PAGE_DATA (`page-data.ts`). */
import { PAGE_SIZE } from '../core/brand.ts';
import { hex, RecordError } from './errors.ts';
import { concat, fixed } from './fixed.ts';
import type { PfnWords } from './page-data.ts';
import { encodeRecord, OPTIONAL_BIT } from './record.ts';

/** The image header (libxc-migration-stream.pandoc); always big-endian. */
export interface ImageHeader {
  /** 2 or 3. */
  readonly version: number;
  /** Bit 0: big-endian; the other bits are reserved. */
  readonly options: number;
  readonly reserved1: number;
  readonly reserved2: number;
}

export const LIBXC_MARKER = 0xffffffffffffffffn;
/** "XENF". */
export const LIBXC_ID = 0x58454e46;
export const LIBXC_VERSION = 3;
/** The oldest version that can be read. */
export const LIBXC_VERSION_MIN = 2;
export const LIBXC_OPTION_BIG_ENDIAN = 1;

export const imageHeader = fixed('big', {
  marker: 'u64',
  id: 'u32',
  version: 'u32',
  options: 'u16',
  reserved1: 'u16',
  reserved2: 'u32',
});

/** Guest type of a stream; that of a PVH guest is `hvm`. */
export type StreamGuestType = 'pv' | 'hvm';

/** Values of the type in the domain header. */
export const GUEST_TYPE: Readonly<Record<StreamGuestType, number>> = { pv: 1, hvm: 2 };

/** The domain header. */
export interface DomainHeader {
  readonly guestType: StreamGuestType;
  /** 12. */
  readonly pageShift: number;
  readonly reserved: number;
  /** 0 in a stream that was converted from the legacy format; xenMinor is then the converter's version. */
  readonly xenMajor: number;
  readonly xenMinor: number;
}

export const domainHeader = fixed('little', {
  type: 'u32',
  pageShift: 'u16',
  reserved: 'u16',
  xenMajor: 'u32',
  xenMinor: 'u32',
});

export const PAGE_SHIFT = 12;

/** Types of the records of libxc's stream. */
export const LIBXC_TYPE = {
  END: 0x0,
  PAGE_DATA: 0x1,
  X86_PV_INFO: 0x2,
  X86_PV_P2M_FRAMES: 0x3,
  X86_PV_VCPU_BASIC: 0x4,
  X86_PV_VCPU_EXTENDED: 0x5,
  X86_PV_VCPU_XSAVE: 0x6,
  SHARED_INFO: 0x7,
  X86_TSC_INFO: 0x8,
  HVM_CONTEXT: 0x9,
  HVM_PARAMS: 0xa,
  TOOLSTACK: 0xb,
  X86_PV_VCPU_MSRS: 0xc,
  VERIFY: 0xd,
  CHECKPOINT: 0xe,
  CHECKPOINT_DIRTY_PFN_LIST: 0xf,
  STATIC_DATA_END: 0x10,
  X86_CPUID_POLICY: 0x11,
  X86_MSR_POLICY: 0x12,
} as const;

export type LibxcRecordName = keyof typeof LIBXC_TYPE;

/** A leaf of the CPUID policy: xen_cpuid_leaf_t (xen/include/public/arch-x86/xen.h). */
export interface CpuidLeaf {
  readonly leaf: number;
  /** 0xffffffff if the leaf has no subleaves. */
  readonly subleaf: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** An entry of the MSR policy: xen_msr_entry_t (xen/include/public/arch-x86/xen.h). */
export interface MsrEntry {
  readonly index: number;
  readonly flags: number;
  readonly value: bigint;
}

/** An HVM parameter, HVM_PARAM_* (xen/include/public/hvm/params.h). */
export interface HvmParam {
  readonly index: bigint;
  readonly value: bigint;
}

export interface X86PvInfo {
  readonly name: 'X86_PV_INFO';
  /** Bytes in a word of the guest: 4 or 8. */
  readonly guestWidth: number;
  /** 3 or 4. */
  readonly ptLevels: number;
  readonly reserved1: number;
  readonly reserved2: number;
}

export interface X86PvP2mFrames {
  readonly name: 'X86_PV_P2M_FRAMES';
  readonly startPfn: number;
  /** The last pfn that the frames cover. */
  readonly endPfn: number;
  /** The pfns of the guest's p2m frames. */
  readonly frames: BigUint64Array;
}

export interface X86PvVcpu {
  readonly name: 'X86_PV_VCPU_BASIC' | 'X86_PV_VCPU_EXTENDED' | 'X86_PV_VCPU_XSAVE' | 'X86_PV_VCPU_MSRS';
  readonly vcpuId: number;
  readonly reserved: number;
  /** As Xen's domctl returns it. */
  readonly context: Uint8Array;
}

export interface X86TscInfo {
  readonly name: 'X86_TSC_INFO';
  /** TSC_MODE_* */
  readonly mode: number;
  readonly khz: number;
  /** Elapsed time in nanoseconds. */
  readonly nsec: bigint;
  readonly incarnation: number;
  readonly reserved: number;
}

export interface HvmParams {
  readonly name: 'HVM_PARAMS';
  readonly reserved: number;
  readonly params: readonly HvmParam[];
}

/** A record of libxc's stream other than PAGE_DATA. These are small, so they are held in memory. */
export type LibxcStateRecord =
  | { readonly name: 'END' | 'VERIFY' | 'CHECKPOINT' | 'STATIC_DATA_END' }
  | X86PvInfo
  | X86PvP2mFrames
  | X86PvVcpu
  | { readonly name: 'SHARED_INFO' | 'HVM_CONTEXT' | 'TOOLSTACK'; readonly data: Uint8Array }
  | X86TscInfo
  | HvmParams
  | { readonly name: 'CHECKPOINT_DIRTY_PFN_LIST'; readonly pfns: BigUint64Array }
  | { readonly name: 'X86_CPUID_POLICY'; readonly leaves: readonly CpuidLeaf[] }
  | { readonly name: 'X86_MSR_POLICY'; readonly entries: readonly MsrEntry[] }
  | {
      readonly name: 'OPTIONAL';
      /** Bit 31 included. */
      readonly type: number;
      readonly data: Uint8Array;
    };

/** A PAGE_DATA record, whose pages are streamed. */
export interface PageData {
  readonly name: 'PAGE_DATA';
  readonly reserved: number;
  readonly words: PfnWords;
  /**
   * The pages, in chunks of whole pages. A reader's chunk is a view that is valid until the next one is asked
   * for. The pages can be read once, before the reader's next item.
   */
  readonly pages: AsyncIterable<Uint8Array>;
}

export type LibxcRecord = LibxcStateRecord | PageData;

const pvInfo = fixed('little', { guestWidth: 'u8', ptLevels: 'u8', reserved1: 'u16', reserved2: 'u32' });
const p2mFrames = fixed('little', { startPfn: 'u32', endPfn: 'u32' });
const vcpuHeader = fixed('little', { vcpuId: 'u32', reserved: 'u32' });
const tscInfo = fixed('little', {
  mode: 'u32',
  khz: 'u32',
  nsec: 'u64',
  incarnation: 'u32',
  reserved: 'u32',
});
const hvmParamsHeader = fixed('little', { count: 'u32', reserved: 'u32' });
const hvmParam = fixed('little', { index: 'u64', value: 'u64' });
const cpuidLeaf = fixed('little', {
  leaf: 'u32',
  subleaf: 'u32',
  eax: 'u32',
  ebx: 'u32',
  ecx: 'u32',
  edx: 'u32',
});
const msrEntry = fixed('little', { index: 'u32', flags: 'u32', value: 'u64' });

const names = new Map<number, LibxcRecordName>(
  (Object.keys(LIBXC_TYPE) as LibxcRecordName[]).map((name) => [LIBXC_TYPE[name], name]),
);

/** Returns the specification's name of a record type, or its number. */
export function libxcRecordName(type: number): string {
  return names.get(type) ?? hex(type);
}

/** Parses items of one size, back to back. */
function parseArray<T>(item: { size: number; parse(bytes: Uint8Array): T }, bytes: Uint8Array): T[] {
  const items: T[] = [];
  for (let at = 0; at < bytes.length; at += item.size)
    items.push(item.parse(bytes.subarray(at, at + item.size)));
  return items;
}

function parseWords(bytes: Uint8Array): BigUint64Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return BigUint64Array.from({ length: bytes.length / 8 }, (_, i) => view.getBigUint64(i * 8, true));
}

function encodeWords(words: BigUint64Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(words.length * 8));
  words.forEach((word, i) => {
    view.setBigUint64(i * 8, word, true);
  });
  return new Uint8Array(view.buffer);
}

/**
 * Parses the leaves of a serialised CPUID policy (xc_cpu_policy_serialise).
 * @throws {RangeError} If the length is not a multiple of 24.
 */
export function parseCpuidLeaves(bytes: Uint8Array): CpuidLeaf[] {
  return parseArray(cpuidLeaf, bytes);
}

/**
 * Parses the entries of a serialised MSR policy (xc_cpu_policy_serialise).
 * @throws {RangeError} If the length is not a multiple of 16.
 */
export function parseMsrEntries(bytes: Uint8Array): MsrEntry[] {
  return parseArray(msrEntry, bytes);
}

/**
 * Parses any record except PAGE_DATA.
 * @param offset of the record in the stream, for errors
 * @throws {RecordError} RECORD_SIZE if the body has a wrong length; RECORD_UNKNOWN if the type is mandatory
 * and not in the specification.
 */
export function parseLibxcRecord(type: number, body: Uint8Array, offset: number): LibxcStateRecord {
  const name = names.get(type);
  const wrong = (expected: string): RecordError =>
    new RecordError('RECORD_SIZE', 'length of the body', {
      record: libxcRecordName(type),
      expected,
      got: `${body.length}`,
      offset,
    });
  switch (name) {
    case 'END':
    case 'VERIFY':
    case 'CHECKPOINT':
    case 'STATIC_DATA_END':
      if (body.length !== 0) throw wrong('0');
      return { name };
    case 'X86_PV_INFO':
      if (body.length !== pvInfo.size) throw wrong(`${pvInfo.size}`);
      return { name, ...pvInfo.parse(body) };
    case 'X86_PV_P2M_FRAMES':
      if (body.length < p2mFrames.size || body.length % 8 !== 0) throw wrong('8 and a multiple of 8');
      return { name, ...p2mFrames.parse(body), frames: parseWords(body.subarray(p2mFrames.size)) };
    case 'X86_PV_VCPU_BASIC':
    case 'X86_PV_VCPU_EXTENDED':
    case 'X86_PV_VCPU_XSAVE':
    case 'X86_PV_VCPU_MSRS':
      if (body.length < vcpuHeader.size) throw wrong('at least 8');
      return { name, ...vcpuHeader.parse(body), context: body.slice(vcpuHeader.size) };
    case 'SHARED_INFO':
      if (body.length !== PAGE_SIZE) throw wrong(`${PAGE_SIZE}`);
      return { name, data: body.slice() };
    case 'HVM_CONTEXT':
    case 'TOOLSTACK':
      return { name, data: body.slice() };
    case 'X86_TSC_INFO':
      if (body.length !== tscInfo.size) throw wrong(`${tscInfo.size}`);
      return { name, ...tscInfo.parse(body) };
    case 'HVM_PARAMS': {
      if (body.length < hvmParamsHeader.size) throw wrong('at least 8');
      const { count, reserved } = hvmParamsHeader.parse(body);
      const length = hvmParamsHeader.size + count * hvmParam.size;
      if (body.length !== length) throw wrong(`${length} for ${count} parameters`);
      return { name, reserved, params: parseArray(hvmParam, body.subarray(hvmParamsHeader.size)) };
    }
    case 'CHECKPOINT_DIRTY_PFN_LIST':
      if (body.length % 8 !== 0) throw wrong('a multiple of 8');
      return { name, pfns: parseWords(body) };
    case 'X86_CPUID_POLICY':
      if (body.length === 0 || body.length % cpuidLeaf.size !== 0) throw wrong('a multiple of 24, not 0');
      return { name, leaves: parseCpuidLeaves(body) };
    case 'X86_MSR_POLICY':
      if (body.length === 0 || body.length % msrEntry.size !== 0) throw wrong('a multiple of 16, not 0');
      return { name, entries: parseMsrEntries(body) };
    default:
      if (type >= OPTIONAL_BIT) return { name: 'OPTIONAL', type, data: body.slice() };
      throw new RecordError('RECORD_UNKNOWN', `libxc record of unknown mandatory type ${hex(type)}`, {
        offset,
        hint: 'the file comes from a newer Xen, or is damaged',
      });
  }
}

/**
 * Encodes any record except PAGE_DATA.
 * @param padding only to write back what was read. Default: zeros.
 * @throws {RangeError} If a value does not fit its field.
 */
export function encodeLibxcRecord(record: LibxcStateRecord, padding?: Uint8Array): Uint8Array {
  if (record.name === 'OPTIONAL') {
    if (record.type < OPTIONAL_BIT)
      throw new RangeError(`${hex(record.type)} is not an optional record type`);
    return encodeRecord(record.type, record.data, padding);
  }
  return encodeRecord(LIBXC_TYPE[record.name], encodeBody(record), padding);
}

function encodeBody(record: Exclude<LibxcStateRecord, { name: 'OPTIONAL' }>): Uint8Array {
  switch (record.name) {
    case 'X86_PV_INFO':
      return pvInfo.encode(record);
    case 'X86_PV_P2M_FRAMES':
      return concat(p2mFrames.encode(record), encodeWords(record.frames));
    case 'X86_PV_VCPU_BASIC':
    case 'X86_PV_VCPU_EXTENDED':
    case 'X86_PV_VCPU_XSAVE':
    case 'X86_PV_VCPU_MSRS':
      return concat(vcpuHeader.encode(record), record.context);
    case 'SHARED_INFO':
    case 'HVM_CONTEXT':
    case 'TOOLSTACK':
      return record.data;
    case 'X86_TSC_INFO':
      return tscInfo.encode(record);
    case 'HVM_PARAMS':
      return concat(
        hvmParamsHeader.encode({ count: record.params.length, reserved: record.reserved }),
        ...record.params.map((param) => hvmParam.encode(param)),
      );
    case 'CHECKPOINT_DIRTY_PFN_LIST':
      return encodeWords(record.pfns);
    case 'X86_CPUID_POLICY':
      return concat(...record.leaves.map((leaf) => cpuidLeaf.encode(leaf)));
    case 'X86_MSR_POLICY':
      return concat(...record.entries.map((entry) => msrEntry.encode(entry)));
    default:
      return new Uint8Array(0);
  }
}

/** Encodes the image header and the domain header. */
export function encodeLibxcHeaders(image: ImageHeader, domain: DomainHeader): Uint8Array {
  const { guestType, ...rest } = domain;
  return concat(
    imageHeader.encode({ marker: LIBXC_MARKER, id: LIBXC_ID, ...image }),
    domainHeader.encode({ type: GUEST_TYPE[guestType], ...rest }),
  );
}

/** Makes the headers of a new stream. */
export function makeLibxcHeaders(guestType: StreamGuestType, xenMajor: number, xenMinor: number) {
  const image: ImageHeader = { version: LIBXC_VERSION, options: 0, reserved1: 0, reserved2: 0 };
  const domain: DomainHeader = { guestType, pageShift: PAGE_SHIFT, reserved: 0, xenMajor, xenMinor };
  return { image, domain };
}
