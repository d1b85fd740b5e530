/** Checks a whole stream against the specifications, and collects what it says. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { ByteSource } from '../core/byte-source.ts';
import { parseJson } from '../core/json.ts';
import type { Problem } from '../core/problem.ts';
import { hex, RecordError, StreamError } from './errors.ts';
import type { LocatedItem, StreamFormat } from './items.ts';
import {
  LIBXC_OPTION_BIG_ENDIAN,
  type LibxcStateRecord,
  type StreamGuestType,
  type X86PvInfo,
  type X86PvP2mFrames,
  type X86PvVcpu,
} from './libxc.ts';
import { EMULATOR, LIBXL_OPTION_LEGACY, type LibxlRecord, xenstorePairs } from './libxl.ts';
import { OrderRules } from './order.ts';
import { hasPageData, PAGE_DATA_FIXED_LENGTH, type PfnWords } from './page-data.ts';
import { readStream } from './reader.ts';
import { type XlHeader, xlConfigText } from './xl-header.ts';

/** Something in the stream that does not follow the specifications. */
export interface Finding extends Problem {
  /**
   * `error`: Xen's restore refuses the stream, or makes an incomplete guest of it; `warning`: it accepts it.
   */
  readonly severity: 'error' | 'warning';
  /** Bytes from the start of the stream. */
  readonly offset: number;
}

/** One line of the table of records. */
export interface RecordCount {
  readonly level: 'libxl' | 'libxc';
  readonly name: string;
  readonly count: number;
  /** Bytes, with headers, pages and padding. */
  readonly bytes: number;
}

/** What can be learned from a stream without restoring it. */
export interface StreamFacts {
  /** Whether the outermost END was reached. */
  readonly complete: boolean;
  /**
   * Bytes up to the outermost END. If it is missing: bytes of all sound items, without a last PAGE_DATA
   * record.
   */
  readonly length: number;
  readonly guestType?: StreamGuestType;
  /** Version of libxc's stream: 2 or 3. */
  readonly version?: number;
  /** Version of the Xen that saved it. */
  readonly xen?: { readonly major: number; readonly minor: number };
  /** libxl's JSON as text, without padding. `config` is the same, parsed. */
  readonly configText?: string;
  readonly config?: unknown;
  /** Number of pages with data; one that is in the stream n times counts n times. */
  readonly pages: number;
  /** Number of entries in PAGE_DATA records, with or without data. */
  readonly entries: number;
  /** The highest pfn with data; -1 if there is none. */
  readonly maxPfn: number;
  /** The records, in the order of their first appearance. */
  readonly records: readonly RecordCount[];
}

export interface VerifyReport {
  /** True if no finding is an error. */
  readonly ok: boolean;
  readonly findings: readonly Finding[];
  /** Number of findings beyond the limit, which are not listed. */
  readonly omitted: number;
  readonly facts: StreamFacts;
}

export interface VerifyOptions {
  /** The outermost format. Default: `xl`. */
  readonly format?: StreamFormat;
  /** Maximum number of findings to list. Default: 100. */
  readonly maxFindings?: number;
  readonly signal?: AbortSignal | undefined;
  /**
   * Called with each item, and awaited: for callers that need more than the facts. It may read the pages of a
   * PAGE_DATA record.
   */
  readonly onItem?: (item: LocatedItem) => void | Promise<void>;
}

/**
 * Reads a stream to its end, without the pages' content, and checks it against all rules of the
 * specifications. Damage is a finding, not an exception.
 * @throws {InterruptedError} If the source was interrupted. What the source and `onItem` throw is passed on,
 * except that a StreamError or RecordError of `onItem` becomes a finding.
 */
export async function verifyStream(source: ByteSource, options: VerifyOptions = {}): Promise<VerifyReport> {
  const { format = 'xl', maxFindings = 100, signal, onItem } = options;
  const start = source.offset;
  const pass = new Pass(format, maxFindings);
  try {
    for await (const item of readStream(source, { format, signal })) {
      pass.endItem(item.offset);
      pass.item(item);
      await onItem?.(item);
      // The end of a PAGE_DATA record is only known once its pages have been skipped.
      const streamed = item.kind === 'libxc-record' && item.record.name === 'PAGE_DATA';
      if (!streamed) pass.endItem(source.offset - start);
    }
    pass.endItem(source.offset - start);
    const rest = await source.read(1);
    if (rest.length > 0) {
      pass.report('warning', 'TRAILING', 'bytes after the END of the stream', source.offset - start - 1);
    }
  } catch (error) {
    if (!(error instanceof StreamError || error instanceof RecordError)) throw error;
    pass.report('error', error.code, error.message, error.offset ?? 0, error.hint);
  }
  return pass.result();
}

/** Sizes of struct vcpu_guest_context by the guest's width (tools/include/xen-foreign/reference.size). */
const vcpuContextSize: Readonly<Record<number, number>> = { 4: 2800, 8: 5168 };

class Pass {
  readonly #rules: OrderRules;
  readonly #maxFindings: number;
  readonly #findings: Finding[] = [];
  #errors = 0;
  #omitted = 0;
  readonly #records = new Map<string, { -readonly [K in keyof RecordCount]: RecordCount[K] }>();
  #open: { line: { bytes: number }; offset: number } | undefined;
  #length = 0;
  #facts: Pick<StreamFacts, 'guestType' | 'version' | 'xen' | 'configText' | 'config'> = {};
  #pages = 0;
  #entries = 0;
  #maxPfn = -1;
  /** Width of a PV guest's words in bytes. */
  #width: number | undefined;
  #endPfn = Number.POSITIVE_INFINITY;

  constructor(format: StreamFormat, maxFindings: number) {
    this.#rules = new OrderRules(format);
    this.#maxFindings = maxFindings;
  }

  report(severity: Finding['severity'], code: string, message: string, offset: number, hint?: string): void {
    if (severity === 'error') this.#errors++;
    if (this.#findings.length >= this.#maxFindings) this.#omitted++;
    else this.#findings.push({ severity, code, message, offset, hint });
  }

  /** Notes that the previous item ends at `offset`. */
  endItem(offset: number): void {
    if (this.#open !== undefined) this.#open.line.bytes += offset - this.#open.offset;
    this.#open = undefined;
    this.#length = offset;
  }

  item(item: LocatedItem): void {
    const { offset } = item;
    for (const { severity, code, message } of this.#rules.check(item))
      this.report(severity, code, message, offset);
    switch (item.kind) {
      case 'xl-header':
        this.#xlHeader(item.header, offset);
        break;
      case 'libxl-header':
        this.#reserved('libxl header: options', item.header.options & ~LIBXL_OPTION_LEGACY, offset);
        break;
      case 'libxc-headers': {
        const { image, domain } = item;
        this.#reserved('image header: options', image.options & ~LIBXC_OPTION_BIG_ENDIAN, offset);
        this.#reserved('image header', image.reserved1 || image.reserved2, offset);
        this.#reserved('domain header', domain.reserved, offset);
        const { guestType, xenMajor, xenMinor } = domain;
        this.#facts = {
          ...this.#facts,
          guestType,
          version: image.version,
          xen: { major: xenMajor, minor: xenMinor },
        };
        break;
      }
      case 'libxl-record':
        this.#count('libxl', item.record, offset);
        this.#padding(item.record.name, item.padding, offset);
        this.#libxl(item.record, offset);
        break;
      case 'libxc-record': {
        const { record } = item;
        this.#count('libxc', record, offset);
        if (record.name === 'PAGE_DATA') {
          this.#reserved(record.name, record.reserved, offset);
          this.#words(record.words, offset);
        } else {
          this.#padding(record.name, item.padding, offset);
          this.#libxc(record, offset);
        }
        break;
      }
    }
  }

  result(): VerifyReport {
    const facts: StreamFacts = {
      complete: this.#rules.done,
      length: this.#length,
      ...this.#facts,
      pages: this.#pages,
      entries: this.#entries,
      maxPfn: this.#maxPfn,
      records: [...this.#records.values()],
    };
    return { ok: this.#errors === 0, findings: this.#findings, omitted: this.#omitted, facts };
  }

  #count(level: 'libxl' | 'libxc', record: { name: string; type?: number }, offset: number): void {
    const name = record.type === undefined ? record.name : `${record.name} ${hex(record.type)}`;
    const line = this.#records.get(`${level} ${name}`) ?? { level, name, count: 0, bytes: 0 };
    line.count++;
    this.#records.set(`${level} ${name}`, line);
    this.#open = { line, offset };
  }

  #reserved(where: string, bits: number, offset: number): void {
    if (bits !== 0)
      this.report('warning', 'RESERVED', `${where}: reserved bits are set: ${hex(bits >>> 0)}`, offset);
  }

  #padding(name: string, padding: Uint8Array | undefined, offset: number): void {
    if (padding !== undefined) this.report('warning', 'PADDING', `${name}: padding is not zero`, offset);
  }

  #xlHeader(header: XlHeader, offset: number): void {
    if (header.optionalFlags !== 0) {
      this.report(
        'warning',
        'XL_FLAGS',
        `xl header: unknown optional flags ${hex(header.optionalFlags)}`,
        offset,
      );
    }
    if (header.tail.length > 0) {
      this.report('warning', 'XL_TAIL', 'xl header: unknown optional data after the configuration', offset);
    }
    try {
      const configText = xlConfigText(header);
      this.#facts = { ...this.#facts, configText };
      if (header.config?.at(-1) !== 0) {
        this.report('error', 'XL_CONFIG_NUL', 'xl header: the configuration does not end with NUL', offset);
      }
      this.#facts = { ...this.#facts, config: parseJson(configText) };
    } catch (error) {
      const code = error instanceof RecordError ? error.code : 'XL_CONFIG_JSON';
      this.report('error', code, error instanceof Error ? error.message : String(error), offset);
    }
  }

  #libxl(record: LibxlRecord, offset: number): void {
    if (record.name !== 'EMULATOR_XENSTORE_DATA' && record.name !== 'EMULATOR_CONTEXT') return;
    if (record.emulatorId > EMULATOR.qemuUpstream) {
      this.report(
        'warning',
        'EMULATOR_ID',
        `${record.name}: unknown emulator id ${record.emulatorId}`,
        offset,
      );
    }
    if (record.name !== 'EMULATOR_XENSTORE_DATA') return;
    try {
      for (const [key] of xenstorePairs(record.data)) {
        if (key !== '' && !key.startsWith('/')) continue;
        this.report('error', 'XENSTORE_DATA', `${record.name}: key '${key}' is not relative`, offset);
      }
    } catch (error) {
      if (!(error instanceof RecordError)) throw error;
      this.report('error', error.code, error.message, offset);
    }
  }

  #words(words: PfnWords, offset: number): void {
    this.#entries += words.count;
    for (let i = 0; i < words.count; i++) {
      const pfn = words.pfn(i);
      const at = offset + PAGE_DATA_FIXED_LENGTH + 8 * i;
      if (words.reserved(i) !== 0) this.#reserved(`PAGE_DATA: entry ${i}`, words.reserved(i), at);
      if (pfn > this.#endPfn) {
        this.report('error', 'PFN_RANGE', `PAGE_DATA: pfn ${hex(pfn)} is beyond the guest's p2m`, at);
      }
      if (!hasPageData(words.type(i))) continue;
      this.#pages++;
      this.#maxPfn = Math.max(this.#maxPfn, pfn);
    }
  }

  #libxc(record: LibxcStateRecord, offset: number): void {
    if ('reserved' in record) this.#reserved(record.name, record.reserved, offset);
    switch (record.name) {
      case 'X86_PV_INFO':
        this.#pvInfo(record, offset);
        break;
      case 'X86_PV_P2M_FRAMES':
        this.#p2mFrames(record, offset);
        break;
      case 'X86_PV_VCPU_BASIC':
      case 'X86_PV_VCPU_EXTENDED':
      case 'X86_PV_VCPU_XSAVE':
      case 'X86_PV_VCPU_MSRS':
        this.#vcpu(record, offset);
        break;
      case 'HVM_CONTEXT':
        if (record.data.length === 0) this.report('error', 'EMPTY_RECORD', 'HVM_CONTEXT: no content', offset);
        break;
      case 'HVM_PARAMS':
        // Erratum 1 of the specification: Xen 4.6 to 4.8 could write such records.
        if (record.params.length === 0)
          this.report('warning', 'EMPTY_RECORD', 'HVM_PARAMS: no parameters', offset);
        break;
      case 'X86_MSR_POLICY':
        for (const { index, flags } of record.entries) {
          this.#reserved(`X86_MSR_POLICY: flags of MSR ${hex(index)}`, flags, offset);
        }
        break;
    }
  }

  #pvInfo(info: X86PvInfo, offset: number): void {
    this.#reserved(info.name, info.reserved1 || info.reserved2, offset);
    const { guestWidth, ptLevels } = info;
    if ((guestWidth === 8 && ptLevels === 4) || (guestWidth === 4 && ptLevels === 3))
      this.#width = guestWidth;
    else {
      this.report(
        'error',
        'PV_INFO',
        `X86_PV_INFO: ${ptLevels} levels of page tables for words of ${guestWidth} bytes`,
        offset,
      );
    }
  }

  #p2mFrames({ name, startPfn, endPfn, frames }: X86PvP2mFrames, offset: number): void {
    if (startPfn > endPfn) {
      this.report('error', 'P2M_FRAMES', `${name}: start ${hex(startPfn)} above end ${hex(endPfn)}`, offset);
      return;
    }
    this.#endPfn = endPfn;
    if (this.#width === undefined) return;
    const perFrame = PAGE_SIZE / this.#width;
    const expected = Math.floor(endPfn / perFrame) - Math.floor(startPfn / perFrame) + 1;
    if (frames.length !== expected) {
      this.report(
        'error',
        'P2M_FRAMES',
        `${name}: expected ${expected} frames, found ${frames.length}`,
        offset,
      );
    }
  }

  #vcpu({ name, vcpuId, context }: X86PvVcpu, offset: number): void {
    const { length } = context;
    if (length === 0) {
      this.report('warning', 'EMPTY_RECORD', `${name} of vCPU ${vcpuId}: no content`, offset);
      return;
    }
    const wrong = (expected: string): void =>
      this.report(
        'error',
        'VCPU_SIZE',
        `${name} of vCPU ${vcpuId}: expected ${expected} bytes, found ${length}`,
        offset,
      );
    const basic = this.#width === undefined ? undefined : vcpuContextSize[this.#width];
    if (name === 'X86_PV_VCPU_BASIC' && basic !== undefined && length !== basic) wrong(`${basic}`);
    if (name === 'X86_PV_VCPU_EXTENDED' && length > 128) wrong('at most 128');
    if (name === 'X86_PV_VCPU_XSAVE' && length < 16) wrong('at least 16');
    if (name === 'X86_PV_VCPU_MSRS' && length % 16 !== 0) wrong('a multiple of 16');
  }
}
