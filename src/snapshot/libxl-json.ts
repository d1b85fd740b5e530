/**
 * libxl's JSON keeps 64-bit integers; a JavaScript number holds 53 bits. Such integers pass through as strings with
 * a mark that no configuration contains, so that what is read and printed again is what it was.
 */
const MARK = '\u0000integer:';
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MARKED = /"\\u0000integer:(-?\d+)"/g;

/**
 * Parses libxl's JSON.
 * @throws SyntaxError as JSON.parse does
 */
export function parseLibxlJson(text: string): unknown {
  const safe = text.replace(TOKEN, (token) => {
    if (token.startsWith('"') || !/^-?\d+$/.test(token)) return token;
    return Number.isSafeInteger(Number(token)) ? token : JSON.stringify(MARK + token);
  });
  return JSON.parse(safe);
}

/** Prints it as libxl does: indented by 4, integers whole. */
export function printLibxlJson(value: unknown): string {
  return `${JSON.stringify(value, null, 4).replace(MARKED, '$1')}\n`;
}
