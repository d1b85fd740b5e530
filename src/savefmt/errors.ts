/** Errors of the stream formats: each says what was expected, what was found, and at which offset. */
import { EXIT, XlsnapError } from '../core/errors.ts';
import { omitUndefined } from '../core/omit-undefined.ts';

/** What an error about a stream may say besides what was being read. */
export interface FormatErrorDetails {
  /** Offset of the thing at fault, in bytes from the start of the file or stream. */
  readonly offset?: number | undefined;
  /** Name of the record that contains it. */
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

/** The structure of a stream is broken: a header, a length, the order of records, or the end. */
export class StreamError extends XlsnapError {
  readonly exitCode = EXIT.format;

  constructor(code: string, what: string, more: FormatErrorDetails = {}) {
    super(code, message(what, more), details(more));
  }
}

/** The structure is sound, but the content of one record is impossible. */
export class RecordError extends XlsnapError {
  readonly exitCode = EXIT.format;

  constructor(code: string, what: string, more: FormatErrorDetails = {}) {
    super(code, message(what, more), details(more));
  }
}

/** Formats a number as the specifications print it. */
export function hex(value: number | bigint, digits = 8): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}
