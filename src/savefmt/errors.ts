import { EXIT, XlsnapError } from '../core/errors.ts';
import { omitUndefined } from '../core/omit-undefined.ts';

/** What an error about a stream may say besides what was being read. */
export interface FormatErrorDetails {
  /** Bytes from the start of the file or stream to the thing at fault. */
  readonly offset?: number | undefined;
  /** Name of the record it is in. */
  readonly record?: string | undefined;
  readonly expected?: string | undefined;
  readonly got?: string | undefined;
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

function message(what: string, details: FormatErrorDetails): string {
  const { record, expected, got, offset } = details;
  const values =
    expected === undefined ? '' : `: expected ${expected}${got === undefined ? '' : `, found ${got}`}`;
  return `${record === undefined ? '' : `${record}: `}${what}${values}${offset === undefined ? '' : ` (at offset ${offset})`}`;
}

function details({ offset, record, expected, got, hint, cause }: FormatErrorDetails) {
  return {
    offset,
    hint,
    cause,
    data: omitUndefined({ record, expected, got }),
  };
}

/** The frame of a stream is broken: a header, a length, the order of records, the end. */
export class StreamError extends XlsnapError {
  readonly exitCode = EXIT.format;

  constructor(code: string, what: string, more: FormatErrorDetails = {}) {
    super(code, message(what, more), details(more));
  }
}

/** The frame holds, but the content of one record is impossible. */
export class RecordError extends XlsnapError {
  readonly exitCode = EXIT.format;

  constructor(code: string, what: string, more: FormatErrorDetails = {}) {
    super(code, message(what, more), details(more));
  }
}

/** A number as the specifications print it. */
export function hex(value: number | bigint, digits = 8): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}
