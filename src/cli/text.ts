/** Formats numbers, names and JSON for output. */
import { Help } from 'commander';
import { PAGE_SIZE } from '../core/brand.ts';
import type { TextStream } from './context.ts';

/** Formats a size: `512 MiB`, `9.5 MiB`, `12.3 GiB`. */
export function formatBytes(bytes: number): string {
  const mib = bytes / 2 ** 20;
  if (mib >= 10_240) return `${(mib / 1024).toFixed(1)} GiB`;
  return mib >= 10 ? `${Math.round(mib)} MiB` : `${mib.toFixed(1)} MiB`;
}

/** Formats a size like `formatBytes`, but below 1 MiB as `64 KiB`. */
export function formatSize(bytes: number): string {
  return bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : formatBytes(bytes);
}

/** Formats the size of so many pages: `64 KiB`, `512 MiB`, `0`. */
export function formatPages(pages: number): string {
  return pages === 0 ? '0' : formatSize(pages * PAGE_SIZE);
}

/** Aligns the columns of rows of cells: the first to the left, the others to the right, or all to the left. */
export function table(
  rows: readonly (readonly string[])[],
  others: 'right' | 'left' = 'right',
): readonly string[] {
  const widths =
    rows[0]?.map((_, column) => Math.max(...rows.map((cells) => widthOf(cells[column] ?? '')))) ?? [];
  return rows.map((cells) =>
    cells
      .map((cell, column) => {
        const room = ' '.repeat((widths[column] ?? 0) - widthOf(cell));
        return column === 0 || others === 'left' ? cell + room : room + cell;
      })
      .join('  ')
      .trimEnd(),
  );
}

/**
 * Aligns columns like `table`, with the headings in the first row. Where that is wider than the terminal, each row gets lines of its
 * own, with the heading before each cell.
 */
export function tableOrBlocks(
  rows: readonly (readonly string[])[],
  columns: number | undefined,
): readonly string[] {
  const lines = table(rows);
  if (columns === undefined || lines.every((line) => widthOf(line) <= columns)) return lines;
  const [head = [], ...body] = rows;
  return body.flatMap(([name = '', ...cells]) => blockLines(name, head.slice(1), cells, columns));
}

/** One row of a table as lines of its own: its name, and below it the cells that are not empty. */
export function blockLines(
  name: string,
  headings: readonly string[],
  cells: readonly string[],
  columns: number,
): readonly string[] {
  const facts = cells.flatMap((cell, at) => {
    const heading = headings[at] ?? '';
    return cell === '' ? [] : [`  ${heading === '' ? '' : `${heading}: `}${cell}`];
  });
  return [name, ...facts].map((line) => wrapText(line, columns));
}

/** Characters, not UTF-16's units. */
export function widthOf(text: string): number {
  return [...text].length;
}

/** Aligns columns like `tableOrBlocks`, indented by two. */
export function indentedTable(
  rows: readonly (readonly string[])[],
  columns?: number | undefined,
): readonly string[] {
  const room = columns === undefined ? undefined : columns - 2;
  return tableOrBlocks(rows, room).map((line) => `  ${line.replaceAll('\n', '\n  ')}`);
}

/** Formats a share: `8.4 %`, `0 %`, and `<0.1 %` for very little. */
export function formatShare(part: number, whole: number): string {
  const percent = whole === 0 ? 0 : (100 * part) / whole;
  if (percent > 0 && percent < 0.1) return '<0.1 %';
  return `${percent === 0 ? '0' : percent.toFixed(1)} %`;
}

/** Formats a duration: `340 ms`, `2.4 s`, `73 s`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 59.95 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

/** `2026-11-23 21:15:30`, in local time, as the default names have it; `?` for what is not a time. */
export function localTime(iso: string): string {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return '?';
  const two = (value: number): string => String(value).padStart(2, '0');
  const date = [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join('-');
  return `${date} ${[time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(':')}`;
}

/** Formats a duration like a clock: `0:07`, `12:30`, `1:02:03`. */
export function formatClock(seconds: number): string {
  const whole = Math.ceil(seconds);
  const two = (value: number): string => String(value).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** Makes text safe for a terminal: control characters become `?`. Names and messages come from guests and other programs. */
export function printable(text: string): string {
  return text.replaceAll(/[^\P{Cc}\n]|[\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, '?');
}

/** `1 round`, `2 rounds`. */
export function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/**
 * What to write into the file that a domain is started from, which xlsnap never changes.
 * @param images the image that each disk has now, by vdev
 */
export function diskLinesText(domain: string, images: ReadonlyMap<string, string>, when = 'Now'): string {
  const disks = [...images].map(([vdev, path]) => `${vdev} is ${path}`).join(', ');
  return `${when} change the disk line of the file that you start ${domain} from: ${disks}`;
}

/** Returns the width of a terminal, 80 if it reports none; undefined if there is no terminal, as for a pipe. */
export function columnsOf({ isTTY, columns = 0 }: TextStream): number | undefined {
  if (isTTY !== true) return undefined;
  return columns > 0 ? columns : 80;
}

/** Text is not broken into narrower columns. */
const MIN_COLUMNS = 20;

/**
 * Wraps each line between words, so that it fits into `columns`. Continuation lines are indented by 2 more than the
 * line, or than `indent`.
 */
export function wrapText(text: string, columns: number | undefined, indent = 0): string {
  if (columns === undefined) return text;
  const help = new Help();
  help.minWidthToWrap = MIN_COLUMNS;
  const wrapped = text.split('\n').map((line) => {
    if (widthOf(line) <= columns) return line;
    const own = Math.max(indent, /^ */.exec(line)?.[0].length ?? 0);
    const left = line.slice(0, own);
    const width = Math.max(MIN_COLUMNS, columns - own - 2);
    return left + help.boxWrap(line.slice(own), width).replaceAll('\n', `\n${' '.repeat(own + 2)}`);
  });
  return wrapped.join('\n');
}

/** Wraps each line like `wrapText`, but keeps a command whole: it is there to be copied. */
export function foldText(text: string, columns: number | undefined): string {
  const fold = (line: string): string => (/: (?:xlsnap|xl) /.test(line) ? line : wrapText(line, columns));
  return text.split('\n').map(fold).join('\n');
}

/**
 * Makes one line of JSON, as `--json` prints it. Control characters and changes of text direction that JSON would leave as they
 * are get escaped: names and messages come from guests and other programs.
 */
export function jsonLine(messageType: string, fields: object): string {
  const json = JSON.stringify({ message_type: messageType, ...(snakeKeys(fields) as object) });
  return json.replaceAll(
    /[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/**
 * Converts plain data to what `--json` prints: `memoryPath` becomes `memory_path`, `NOTAB` stays, and fractions are rounded to
 * millionths, since no clock here is more exact.
 */
export function snakeKeys(value: unknown): unknown {
  if (typeof value === 'number' && !Number.isInteger(value)) return Math.round(value * 1e6) / 1e6;
  if (Array.isArray(value)) return value.map(snakeKeys);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      key.replaceAll(/(?<=[a-z0-9])[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      snakeKeys(inner),
    ]),
  );
}
