/** One JSON object per line, in UTF-8 (QEMU's docs/interop/qmp-spec). */
import { isRecord } from '../core/guards.ts';
import { parseJson } from '../core/json.ts';
import { QmpProtocolError } from './errors.ts';

/** Maximum length of a line from QEMU, in bytes. */
export const MAX_LINE = 10 * 1024 * 1024;

const LINE_FEED = 0x0a;

/** Splits what arrives into lines, however it is chunked. */
export class LineSplitter {
  readonly #limit: number;
  #parts: Uint8Array[] = [];
  #length = 0;

  constructor(limit: number = MAX_LINE) {
    this.#limit = limit;
  }

  /**
   * Yields the lines that `chunk` completes, without their line feeds. The chunk must not be reused.
   * @throws {QmpProtocolError} If a line, complete or not, is longer than the limit.
   */
  *push(chunk: Uint8Array): Generator<string> {
    let rest = chunk;
    while (rest.length > 0) {
      const at = rest.indexOf(LINE_FEED);
      const part = at < 0 ? rest : rest.subarray(0, at);
      this.#length += part.length;
      if (this.#length > this.#limit) {
        throw new QmpProtocolError(`a line from QEMU is longer than ${this.#limit} bytes`);
      }
      this.#parts.push(part);
      if (at < 0) return;
      yield this.#take();
      rest = rest.subarray(at + 1);
    }
  }

  #take(): string {
    const decoder = new TextDecoder('utf-8', { fatal: true });
    const parts = this.#parts;
    this.#parts = [];
    this.#length = 0;
    try {
      return parts.map((part) => decoder.decode(part, { stream: true })).join('') + decoder.decode();
    } catch (cause) {
      throw new QmpProtocolError('a line from QEMU is not UTF-8', { cause });
    }
  }
}

/**
 * Parses a line.
 * @throws {QmpProtocolError} If the line is not a JSON object.
 */
export function parseLine(line: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = parseJson(line);
  } catch (cause) {
    throw new QmpProtocolError(`QEMU sent malformed JSON: ${excerpt(line)}`, { cause });
  }
  if (!isRecord(value))
    throw new QmpProtocolError(`QEMU sent something other than a JSON object: ${excerpt(line)}`);
  return value;
}

/** Formats a message as a line. */
export function formatLine(message: Readonly<Record<string, unknown>>): string {
  return `${JSON.stringify(message)}\n`;
}

/** Returns the beginning of a text, for error messages. */
export function excerpt(text: string): string {
  return text.length <= 120 ? text : `${text.slice(0, 120)}…`;
}
