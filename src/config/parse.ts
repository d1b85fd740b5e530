/** Parses a cfgfile, and reports everything that is wrong in it. */
import { nearest } from '../core/nearest.ts';
import { omitUndefined } from '../core/omit-undefined.ts';
import type { Problem } from '../core/problem.ts';
import type { DiskRequest, SnapshotConfig, StoreSize } from './config.ts';
import { ConfigError, type ConfigFinding } from './errors.ts';
import { type Located, nextToken, SyntaxProblem, type Token } from './lex.ts';
import { checkDescription, checkPath, checkSnapshotName } from './name.ts';

/** Maximum size of a cfgfile in bytes. */
export const MAX_CONFIG_BYTES = 1024 * 1024;

/** Maximum number of findings reported; a file with more is not a cfgfile. */
const MAX_FINDINGS = 20;

/**
 * Parses a cfgfile: the syntax of xl.cfg (tools/libs/util/libxlu_cfg_{l.l,y.y} of Xen 4.20) with the keys
 * `name`, `description`, `memory_path` and `disks`. An empty text is the same as none.
 *
 * Stricter than xl: a key may be set once (`+=` adds to it), and numeric escapes, which xl drops, are
 * refused.
 * @param source name of the file for messages; becomes `source` of the result
 * @throws {ConfigError} If anything is wrong. It reports everything, but a syntax error alone.
 */
export function parseConfig(input: Uint8Array | string, source = 'cfgfile'): SnapshotConfig {
  const text = decode(input, source);
  const findings: Located[] = [];
  let more = 0;
  const report = (at: number, problem: Problem): void => {
    if (findings.length < MAX_FINDINGS) findings.push({ ...problem, at });
    else more++;
  };
  let config: SnapshotConfig = {};
  try {
    config = { ...interpret(readSettings(text, report), report), source };
  } catch (error) {
    if (!(error instanceof SyntaxProblem)) throw error;
    throw new ConfigError(source, [withPosition(text, error.located)]);
  }
  findings.sort((a, b) => a.at - b.at);
  const [first, ...rest] = findings.map((finding) => withPosition(text, finding));
  if (first !== undefined) throw new ConfigError(source, [first, ...rest], { more });
  return config;
}

function decode(input: Uint8Array | string, source: string): string {
  const whole = (code: string, message: string, hint?: string): ConfigError =>
    new ConfigError(source, [{ code, message, hint }]);
  if (input.length > MAX_CONFIG_BYTES) {
    throw whole('TOO_LONG', `larger than ${MAX_CONFIG_BYTES} bytes`, 'is it a cfgfile?');
  }
  let text: string;
  try {
    text = typeof input === 'string' ? input : new TextDecoder('utf-8', { fatal: true }).decode(input);
  } catch {
    throw whole('NOT_UTF8', 'not UTF-8 text', 'is it a cfgfile, and not the memory file?');
  }
  if (text.includes('\0')) throw whole('NOT_TEXT', 'not text: it has NUL bytes', 'is it a cfgfile?');
  return text;
}

interface Atom {
  readonly text: string;
  readonly at: number;
}

interface Setting {
  readonly key: string;
  readonly at: number;
  /** Offset of the value. */
  readonly valueAt: number;
  /** A list, or the parts of a text that `+=` joined. */
  readonly list: boolean;
  readonly atoms: Atom[];
}

type Report = (at: number, problem: Problem) => void;

/** Reads the settings of the file by key, in its order. */
function readSettings(text: string, report: Report): Map<string, Setting> {
  const settings = new Map<string, Setting>();
  const tokens = new Tokens(text);
  let token = tokens.next();
  while (token.kind !== 'end') {
    if (token.kind === 'newline' || token.kind === ';') {
      token = tokens.next();
      continue;
    }
    if (token.kind !== 'word') throw unexpectedProblem(token, 'a key');
    const { text: key, at } = token;
    const operator = tokens.next();
    if (operator.kind !== '=' && operator.kind !== '+=')
      throw unexpectedProblem(operator, `= after ${key.slice(0, 60)}`);
    const value = readValue(tokens);
    token = tokens.next();
    if (token.kind !== 'newline' && token.kind !== ';' && token.kind !== 'end') {
      throw unexpectedProblem(token, 'the end of the line');
    }
    const before = settings.get(key);
    if (before === undefined) settings.set(key, { key, at, ...value });
    else if (operator.kind === '=') {
      report(at, {
        code: 'DUPLICATE_KEY',
        message: `${key.slice(0, 60)} is set a second time`,
        hint: '+= adds to what was set',
      });
    } else if (before.list !== value.list) {
      report(at, {
        code: 'WRONG_TYPE',
        message: `${key.slice(0, 60)}: a list and a string cannot be joined`,
      });
    } else for (const atom of value.atoms) before.atoms.push(atom);
  }
  return settings;
}

function readValue(tokens: Tokens): Pick<Setting, 'valueAt' | 'list' | 'atoms'> {
  const first = tokens.next();
  const valueAt = first.at;
  if (first.kind === 'string' || first.kind === 'number') {
    return { valueAt, list: false, atoms: [{ text: first.text, at: first.at }] };
  }
  if (first.kind !== '[') throw unexpectedProblem(first, 'a value in quotes or a list in [ ]');
  const atoms: Atom[] = [];
  for (let token = tokens.nextInList(first); token.kind !== ']'; ) {
    if (token.kind !== 'string' && token.kind !== 'number') {
      throw unexpectedProblem(token, 'an entry in quotes or the end of the list');
    }
    atoms.push({ text: token.text, at: token.at });
    token = tokens.nextInList(first);
    if (token.kind === ',') token = tokens.nextInList(first);
    else if (token.kind !== ']') throw unexpectedProblem(token, 'a comma or the end of the list');
  }
  return { valueAt, list: true, atoms };
}

class Tokens {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  next(): Token {
    const { token, end } = nextToken(this.#text, this.#at);
    this.#at = end;
    return token;
  }

  /**
   * Returns the next token that is not a newline.
   * @param opened the bracket that must be closed
   */
  nextInList(opened: Token): Token {
    let token = this.next();
    while (token.kind === 'newline') token = this.next();
    if (token.kind === 'end') throw new SyntaxProblem(opened.at, 'the list is not closed with ]');
    return token;
  }
}

function unexpectedProblem(token: Token, expected: string): SyntaxProblem {
  const found =
    token.kind === 'newline'
      ? 'the end of the line'
      : token.kind === 'end'
        ? 'the end of the file'
        : JSON.stringify(token.text.slice(0, 40));
  const hint = token.kind === 'word' && !expected.startsWith('=') ? 'values must be in quotes' : undefined;
  return new SyntaxProblem(token.at, `expected ${expected}, found ${found}`, hint);
}

const KEYS = ['name', 'description', 'memory_path', 'disks'] as const;

function interpret(settings: Map<string, Setting>, report: Report): SnapshotConfig {
  for (const { key, at } of settings.values()) {
    if (KEYS.some((known) => known === key)) continue;
    const near = nearest(key, KEYS);
    report(at, {
      code: 'UNKNOWN_KEY',
      message: `unknown key ${key.slice(0, 60)}`,
      hint: near === undefined ? `the keys are ${KEYS.join(', ')}` : `did you mean ${near}?`,
    });
  }
  const textOf = (key: string, check: (text: string) => Problem | undefined): string | undefined => {
    const setting = settings.get(key);
    if (setting === undefined) return undefined;
    if (setting.list) {
      report(setting.valueAt, { code: 'WRONG_TYPE', message: `${key} is a string, not a list` });
      return undefined;
    }
    const text = setting.atoms.map((atom) => atom.text).join('');
    if (text === '') return undefined;
    const problem = check(text);
    if (problem !== undefined) report(setting.valueAt, problem);
    return text;
  };
  const name = textOf('name', checkSnapshotName);
  const description = textOf('description', checkDescription);
  const memoryPath = textOf('memory_path', checkPath);
  const disks = disksOf(settings.get('disks'), report);
  return omitUndefined({
    name,
    description,
    memoryPath,
    disks,
  });
}

function disksOf(setting: Setting | undefined, report: Report): readonly DiskRequest[] | undefined {
  if (setting === undefined) return undefined;
  if (!setting.list) {
    report(setting.valueAt, {
      code: 'WRONG_TYPE',
      message: 'disks is a list, not a string',
      hint: "write disks=['…'], or disks=[] for none",
    });
    return undefined;
  }
  const disks: DiskRequest[] = [];
  const seen = new Set<string>();
  for (const atom of setting.atoms) {
    const disk = parseDisk(atom.text);
    if ('code' in disk) {
      report(atom.at, disk);
      continue;
    }
    if (seen.has(disk.target)) {
      report(atom.at, { code: 'DUPLICATE_DISK', message: `the disk ${disk.target} is named a second time` });
    }
    seen.add(disk.target);
    disks.push(disk);
  }
  return disks;
}

/**
 * Parses `PATH,FORMAT,TARGET`, or `,,TARGET` for a snapshot in the disk's own storage, which `,cow=SIZE` may follow. Spaces around
 * the fields are ignored.
 */
function parseDisk(spec: string): DiskRequest | Problem {
  const fields = spec.split(',', 5).map((field) => field.replace(/^[ \t]+/, '').trimEnd());
  const [path, format, target] = fields;
  const bad = (code: string, message: string, hint: string): Problem => ({ code, message, hint });
  const shown = JSON.stringify(spec.slice(0, 100));
  const keywords = fromKeywords(fields);
  if (keywords !== undefined) {
    return bad(
      'BAD_DISK',
      `${shown} has xl's keywords, which a cfgfile does not accept`,
      `write ${keywords}`,
    );
  }
  const [, , , option] = fields;
  const cow = fields.length === 4 && option !== undefined ? /^cow[ \t]*=[ \t]*(.*)$/s.exec(option) : null;
  if (
    (fields.length !== 3 && cow === null) ||
    path === undefined ||
    format === undefined ||
    target === undefined
  ) {
    const count = fields.length > 4 ? 'more than 4' : String(fields.length);
    return bad(
      'BAD_DISK',
      `${shown} has ${count} field${fields.length === 1 ? '' : 's'}, not 3`,
      "write 'PATH,qcow2,TARGET' for an external snapshot, ',,TARGET' for an internal one",
    );
  }
  if (target === '')
    return bad('BAD_DISK', `${shown} has no target device`, 'the third field is the device, such as xvda');
  if (!/^[a-z0-9]{1,32}$/.test(target)) {
    return bad(
      'BAD_DISK',
      `${JSON.stringify(target.slice(0, 60))} is not a target device`,
      "write it as in the domain's configuration: xvda, hda, sda",
    );
  }
  if (path === '' && format === '') {
    if (cow === null) return { kind: 'internal', target };
    const size = parseStoreSize(cow[1] ?? '');
    if (size !== undefined) return { kind: 'internal', target, cow: size };
    return bad(
      'BAD_DISK',
      `${shown} has no valid size after cow=`,
      'write a whole number with K, M, G or T, such as cow=4G, or a part of the disk, cow=1% to cow=100%',
    );
  }
  if (cow !== null) {
    return bad(
      'BAD_DISK',
      `${shown} has both a path or a format and cow=`,
      `cow= is for a thick volume of LVM, whose snapshot is in its group: ',,${target},cow=4G'`,
    );
  }
  if (path === '') {
    return bad('BAD_DISK', `${shown} has a format but no path`, `an internal snapshot is ',,${target}'`);
  }
  if (format === '') {
    return bad('BAD_DISK', `${shown} has a path but no format`, `write 'PATH,qcow2,${target}'`);
  }
  if (format === 'raw') return checkPath(path) ?? { kind: 'clone', path, format, target };
  if (format !== 'qcow2') {
    return bad(
      'BAD_FORMAT',
      `a snapshot at a path cannot have the format ${JSON.stringify(format.slice(0, 60))}`,
      'write qcow2 for an overlay, which can refer to the image below it, or raw for a clone of a raw image',
    );
  }
  return checkPath(path) ?? { kind: 'external', path, format, target };
}

/** Binary units, as LVM's own. */
const UNITS: Readonly<Record<string, number>> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** Parses `512M` or `20%`; `undefined` if it is neither. */
function parseStoreSize(text: string): StoreSize | undefined {
  const [, digits = '', unit = ''] = /^([0-9]{1,16})([KMGT%])$/i.exec(text) ?? [];
  const count = Number(digits);
  if (unit === '%') return count >= 1 && count <= 100 ? { percent: count } : undefined;
  const bytes = count * (UNITS[unit.toUpperCase()] ?? 0);
  return bytes > 0 && Number.isSafeInteger(bytes) ? { bytes } : undefined;
}

/** Returns what to write instead of fields such as `format=qcow2`, which xl's disk= lines may have. */
function fromKeywords(fields: readonly string[]): string | undefined {
  const pairs = fields.map((field) =>
    /^(format|vdev|access|target|devtype|backendtype)[ \t]*=[ \t]*(.*)$/s.exec(field),
  );
  if (!pairs.some((pair) => pair !== null)) return undefined;
  const wordOf = (key: string): string | undefined => {
    const text = pairs.find((pair) => pair?.[1] === key)?.[2];
    return text === undefined || text === '' ? undefined : text.slice(0, 60);
  };
  const vdev = wordOf('vdev') ?? 'TARGET';
  return `'${wordOf('target') ?? 'PATH'},qcow2,${vdev}' for an external snapshot, ',,${vdev}' for an internal one`;
}

/** Maximum width of the part of a line that is shown. */
const EXCERPT_WIDTH = 90;

function withPosition(text: string, { at, ...finding }: Located): ConfigFinding {
  const start = text.lastIndexOf('\n', at - 1) + 1;
  const stop = text.indexOf('\n', at);
  let line = 1;
  for (let i = text.indexOf('\n'); i >= 0 && i < at; i = text.indexOf('\n', i + 1)) line++;
  const before = [...text.slice(start, at)];
  const after = [...text.slice(at, Math.min(stop < 0 ? text.length : stop, at + 2 * EXCERPT_WIDTH))];
  const cut = Math.max(0, before.length - EXCERPT_WIDTH / 2);
  const left = (cut > 0 ? '…' : '') + before.slice(cut).map(visible).join('');
  const right = after.slice(0, EXCERPT_WIDTH - (before.length - cut)).map(visible);
  const margin = `${line} | `;
  const caret = `${' '.repeat(margin.length - 2)}| ${' '.repeat([...left].length)}^`;
  return {
    ...finding,
    line,
    column: before.length + 1,
    excerpt: `${margin}${left}${right.join('')}\n${caret}`,
  };
}

function visible(character: string): string {
  if (character === '\t') return ' ';
  return /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(character) ? '?' : character;
}
