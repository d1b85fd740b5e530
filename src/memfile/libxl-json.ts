/** Reads and prints the JSON of libxl. */
import { parseJson } from '../core/json.ts';

/**
 * libxl's JSON keeps 64-bit integers; a JavaScript number holds 53 bits. Such integers pass through as strings with
 * a mark that no configuration contains, so that what is read and printed again is what it was.
 */
const MARK = '\u0000integer:';
/** Strings and numbers of a text that is known to be JSON; in another one it would take for ever to find no closing quote. */
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;
const MARKED = /"\\u0000integer:(-?\d[\d.eE+-]*)"/g;
/** The escape of a NUL in a string; a NUL itself JSON does not allow. */
const NUL = /(?<!\\)(?:\\\\)*\\u0000/;

/**
 * Parses libxl's JSON.
 * @throws SyntaxError as `parseJson` does
 */
export function parseLibxlJson(text: string): unknown {
  const plain = parseJson(text);
  let whole = true;
  const safe = text.replace(TOKEN, (token) => {
    if (token.startsWith('"')) {
      if (NUL.test(token)) throw new SyntaxError('a string with a NUL, which no string of libxl has');
      return token;
    }
    const value = Number(token);
    if (Number.isSafeInteger(value) || (Number.isFinite(value) && !/^-?\d+$/.test(token))) return token;
    whole = false;
    return JSON.stringify(MARK + token);
  });
  return whole ? plain : parseJson(safe);
}

/** The same value as plain data: an integer beyond 53 bits is a string of its digits. */
export function plainLibxlJson(value: unknown): unknown {
  if (typeof value === 'string') return value.startsWith(MARK) ? value.slice(MARK.length) : value;
  if (Array.isArray(value)) return value.map(plainLibxlJson);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plainLibxlJson(inner)]));
}

/** Prints it as libxl does: indented by 4, integers whole. */
export function printLibxlJson(value: unknown): string {
  return `${JSON.stringify(value, null, 4).replace(MARKED, '$1')}\n`;
}
