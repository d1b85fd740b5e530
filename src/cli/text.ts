import { Help } from 'commander';
import type { TextStream } from './context.ts';

/** Small forms of text that the output shares. */

/** `512 MiB`, `9.5 MiB`, `12.3 GiB`. */
export function formatBytes(bytes: number): string {
  const mib = bytes / 2 ** 20;
  if (mib >= 10_240) return `${(mib / 1024).toFixed(1)} GiB`;
  return mib >= 10 ? `${Math.round(mib)} MiB` : `${mib.toFixed(1)} MiB`;
}

/** As `formatBytes`, and below 1 MiB `64 KiB`. */
export function formatSize(bytes: number): string {
  return bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : formatBytes(bytes);
}

/** `8.4 %`, `0 %`, and for what is hardly anything `<0.1 %`. */
export function formatShare(part: number, whole: number): string {
  const percent = whole === 0 ? 0 : (100 * part) / whole;
  if (percent > 0 && percent < 0.1) return '<0.1 %';
  return `${percent === 0 ? '0' : percent.toFixed(1)} %`;
}

/** `340 ms`, `2.4 s`, `73 s`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 59.95 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

/** `0:07`, `12:30`, `1:02:03`. */
export function formatClock(seconds: number): string {
  const whole = Math.ceil(seconds);
  const two = (value: number): string => String(value).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** Text for a terminal: what would steer it becomes `?`. Names and messages come from guests and other programs. */
export function printable(text: string): string {
  return text.replaceAll(/[^\P{Cc}\n]|[\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, '?');
}

/** `1 round`, `2 rounds`. */
export function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** Width of a terminal; undefined where none has to be heeded, as in a pipe. */
export function columnsOf(stream: TextStream): number | undefined {
  return stream.isTTY === true ? (stream.columns ?? 80) : undefined;
}

/** Text is not broken into narrower columns. */
const MIN_COLUMNS = 20;

/**
 * Each line broken between words, so that it fits into `columns`; what comes after the first part is further in by 2 than the
 * line, or than `indent`.
 */
export function wrapText(text: string, columns: number | undefined, indent = 0): string {
  if (columns === undefined) return text;
  const help = new Help();
  help.minWidthToWrap = MIN_COLUMNS;
  const wrapped = text.split('\n').map((line) => {
    const own = Math.max(indent, /^ */.exec(line)?.[0].length ?? 0);
    const left = line.slice(0, own);
    const width = Math.max(MIN_COLUMNS, columns - own - 2);
    return left + help.boxWrap(line.slice(own), width).replaceAll('\n', `\n${' '.repeat(own + 2)}`);
  });
  return wrapped.join('\n');
}

/**
 * One line of JSON, as `--json` prints it. What would steer a terminal or turn text around, and JSON leaves as it is, is
 * escaped: names and messages come from guests and other programs.
 */
export function jsonLine(messageType: string, fields: object): string {
  const json = JSON.stringify({ message_type: messageType, ...(snakeKeys(fields) as object) });
  return json.replaceAll(
    /[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Plain data with keys as `--json` prints them: `memoryPath` becomes `memory_path`, and `NOTAB` stays. */
export function snakeKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(snakeKeys);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      key.replaceAll(/(?<=[a-z0-9])[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      snakeKeys(inner),
    ]),
  );
}
