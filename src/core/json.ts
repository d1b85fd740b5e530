/** Deepest nesting that is taken: whoever goes through a value level by level must not run out of stack. */
export const MAX_JSON_DEPTH = 512;

/**
 * JSON from outside. A key `__proto__` becomes a key like any other.
 * @throws {SyntaxError} If it is not JSON, or is nested deeper than MAX_JSON_DEPTH
 */
export function parseJson(text: string): unknown {
  // It keeps its own stack, and goes as deep as the text does.
  const value: unknown = JSON.parse(text);
  if (depthOf(text) > MAX_JSON_DEPTH) throw new SyntaxError(`JSON nested more than ${MAX_JSON_DEPTH} deep`);
  return value;
}

/** Deepest nesting of valid JSON. */
function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '{':
      case '[':
        deepest = Math.max(deepest, ++depth);
        break;
      case '}':
      case ']':
        depth--;
        break;
      case '"':
        for (at++; text[at] !== '"'; at++) if (text[at] === '\\') at++;
    }
  }
  return deepest;
}
