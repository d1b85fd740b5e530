/**
 * Reads, checks and writes Xen's save files: xl's header, libxl's stream, libxc's stream. Needs no Xen.
 *
 * @example
 * ```ts
 * import { FileSource, readStream } from 'xlsnap/savefmt';
 *
 * await using source = await FileSource.open('/x/guest1.save');
 * for await (const item of readStream(source)) {
 *   if (item.kind === 'libxc-record') console.log(item.offset, item.record.name);
 * }
 * ```
 *
 * @module
 */
export { BufferSink, type ByteSink } from '../core/byte-sink.ts';
export { BufferSource, type ByteSource, FileSource, StreamSource } from '../core/byte-source.ts';
export type { Problem } from '../core/problem.ts';
export { type AllocatedPages, AllocationLayout, SUPERPAGE_PAGES } from './allocation.ts';
export { type FormatErrorDetails, RecordError, StreamError } from './errors.ts';
export { encodePrefix, encodeSuffix, type PrefixOptions } from './frame.ts';
export type { LocatedItem, StreamFormat, StreamItem } from './items.ts';
export { DEFAULT_PAGES_PER_RECORD, SlotLayout, type SlotRecord } from './layout.ts';
export {
  type CpuidLeaf,
  type DomainHeader,
  encodeLibxcHeaders,
  encodeLibxcRecord,
  type HvmParam,
  type HvmParams,
  type ImageHeader,
  LIBXC_TYPE,
  type LibxcRecord,
  type LibxcRecordName,
  type LibxcStateRecord,
  libxcRecordName,
  type MsrEntry,
  makeLibxcHeaders,
  type PageData,
  parseCpuidLeaves,
  parseMsrEntries,
  type StreamGuestType,
  type X86PvInfo,
  type X86PvP2mFrames,
  type X86PvVcpu,
  type X86TscInfo,
} from './libxc.ts';
export {
  EMULATOR,
  encodeLibxlHeader,
  encodeLibxlRecord,
  LIBXL_TYPE,
  type LibxlHeader,
  type LibxlRecord,
  libxlRecordName,
  xenstorePairs,
} from './libxl.ts';
export {
  dataOffset,
  encodeAmendment,
  encodePageDataHead,
  hasPageData,
  PAGE_TYPE,
  PfnWords,
  pageTypeName,
} from './page-data.ts';
export { PAGE_STATE, type PageCounts, PageMap, type PageRange } from './page-map.ts';
export { type ReadOptions, readStream, readXlHeader } from './reader.ts';
export {
  type Finding,
  type RecordCount,
  type StreamFacts,
  type VerifyOptions,
  type VerifyReport,
  verifyStream,
} from './verify.ts';
export { StreamWriter } from './writer.ts';
export { encodeXlHeader, makeXlHeader, replaceConfig, type XlHeader, xlConfigText } from './xl-header.ts';
