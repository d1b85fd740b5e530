/** Reads and prints the JSON of libxl. */
import { parseJson } from '../core/json.ts';

/**
 * Marks 64-bit integers. libxl's JSON has them, but a JavaScript number holds 53 bits. They pass through as
 * strings with a mark that no configuration contains, so that printing gives back what was read.
 */
const MARK = '\u0000integer:';
/**
 * Strings and numbers of a text that is known to be JSON. In other texts, looking for a missing closing quote
 * could take forever.
 */
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;
const MARKED = /"\\u0000integer:(-?\d[\d.eE+-]*)"/g;
/** The escape of a NUL in a string. JSON does not allow NUL itself. */
const NUL = /(?<!\\)(?:\\\\)*\\u0000/;

/**
 * Parses libxl's JSON.
 * @throws {SyntaxError} If `parseJson` does, or a string has a NUL.
 */
export function parseLibxlJson(text: string): unknown {
  const plain = parseJson(text);
  let whole = true;
  const safe = text.replace(TOKEN, (token) => {
    if (token.startsWith('"')) {
      if (NUL.test(token)) throw new SyntaxError('a string has a NUL, as no string of libxl does');
      return token;
    }
    const value = Number(token);
    if (Number.isSafeInteger(value) || (Number.isFinite(value) && !/^-?\d+$/.test(token))) return token;
    whole = false;
    return JSON.stringify(MARK + token);
  });
  return whole ? plain : parseJson(safe);
}

/** Returns the value as plain data: an integer beyond 53 bits becomes a string of its digits. */
export function plainLibxlJson(value: unknown): unknown {
  if (typeof value === 'string') return value.startsWith(MARK) ? value.slice(MARK.length) : value;
  if (Array.isArray(value)) return value.map(plainLibxlJson);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plainLibxlJson(inner)]));
}

/** Prints a value as libxl does: indented by 4, with all digits of integers. */
export function printLibxlJson(value: unknown): string {
  return `${JSON.stringify(value, null, 4).replace(MARKED, '$1')}\n`;
}
