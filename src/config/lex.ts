/** Splits a cfgfile into tokens, as xl.cfg has them (tools/libs/util/libxlu_cfg_l.l of Xen 4.20). */
import type { Problem } from '../core/problem.ts';

/** A finding, and its offset in the text. */
export interface Located extends Problem {
  readonly at: number;
}

/** Ends parsing: after a syntax error nothing that follows can be trusted. */
export class SyntaxProblem extends Error {
  readonly located: Located;

  constructor(at: number, message: string, hint?: string) {
    super(message);
    this.located = { code: 'SYNTAX', message, at, hint };
  }
}

export interface Token {
  readonly kind: 'word' | 'number' | 'string' | 'newline' | 'end' | '=' | '+=' | ',' | '[' | ']' | ';';
  /** Its value: a string's without quotes and escapes. */
  readonly text: string;
  /** Offset of its first character, in UTF-16 units. */
  readonly at: number;
}

/**
 * Escapes in quoted strings that stand for themselves or a control character (libxlu_cfg.c,
 * xlu__cfgl_dequote).
 */
const ESCAPES = new Map([
  ['"', '"'],
  ["'", "'"],
  ['\\', '\\'],
  ['a', '\x07'],
  ['b', '\b'],
  ['f', '\f'],
  ['n', '\n'],
  ['r', '\r'],
  ['t', '\t'],
  ['v', '\v'],
]);

const PUNCTUATION = new Set(['=', ',', '[', ']', ';']);
/**
 * A key. xl's keys have lower-case letters only; others are accepted so that the parser can say what was
 * meant.
 */
const WORD = /[A-Za-z_][A-Za-z0-9._-]*/y;
const NUMBER = /[0-9][0-9a-fx]*/y;

/**
 * Reads the next token from offset `from` on.
 * @throws {SyntaxProblem} If there is no valid token.
 */
export function nextToken(text: string, from: number): { readonly token: Token; readonly end: number } {
  let at = from;
  while (text[at] === ' ' || text[at] === '\t') at++;
  if (text[at] === '#') {
    const newline = text.indexOf('\n', at);
    at = newline < 0 ? text.length : newline;
  }
  const first = text[at];
  if (first === undefined) return { token: { kind: 'end', text: '', at }, end: at };
  if (first === '\n') return { token: { kind: 'newline', text: '\n', at }, end: at + 1 };
  if (first === '"' || first === "'") return readQuoted(text, at, first);
  if (first === '+' && text[at + 1] === '=') return { token: { kind: '+=', text: '+=', at }, end: at + 2 };
  if (PUNCTUATION.has(first)) {
    return { token: { kind: first as '=' | ',' | '[' | ']' | ';', text: first, at }, end: at + 1 };
  }
  for (const [kind, pattern] of [['word', WORD] as const, ['number', NUMBER] as const]) {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    if (found !== undefined) return { token: { kind, text: found, at }, end: at + found.length };
  }
  if (first === '\r') {
    throw new SyntaxProblem(
      at,
      'a carriage return',
      'the file has DOS line endings, which xl does not accept',
    );
  }
  throw new SyntaxProblem(
    at,
    `unexpected ${JSON.stringify(String.fromCodePoint(text.codePointAt(at) ?? 0))}`,
    'values must be in quotes',
  );
}

function readQuoted(
  text: string,
  at: number,
  quote: string,
): { readonly token: Token; readonly end: number } {
  let value = '';
  let plainFrom = at + 1;
  for (let i = at + 1; i < text.length && text[i] !== '\n'; i++) {
    if (text[i] === quote) {
      return { token: { kind: 'string', text: value + text.slice(plainFrom, i), at }, end: i + 1 };
    }
    if (text[i] !== '\\') continue;
    const next = text[i + 1] ?? '';
    if (next === '' || next === '\n') break;
    const meant = ESCAPES.get(next);
    if (meant === undefined) {
      // xl accepts \xHH and \OOO and drops them: a path would silently become another one.
      throw new SyntaxProblem(
        i,
        `unknown escape: \\${String.fromCodePoint(text.codePointAt(i + 1) ?? 0)}`,
        'the escapes are \\\\ \\" \\\' \\a \\b \\f \\n \\r \\t \\v; write other characters as they are',
      );
    }
    value += text.slice(plainFrom, i) + meant;
    i++;
    plainFrom = i + 1;
  }
  throw new SyntaxProblem(at, `the quote ${quote} is not closed on its line`);
}
