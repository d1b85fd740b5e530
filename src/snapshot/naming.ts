/** Names and paths of snapshots. */
import { dirname, join } from 'node:path';
import { checkPath, checkSnapshotName } from '../config/name.ts';
import { UsageError } from '../core/errors.ts';
import { shellQuote } from '../core/shell-quote.ts';
import type { Host } from './ports.ts';

/** Default directory of memory files: RFC V5, `/var/lib/xen/snapshots/<domain_uuid>/<name>.save`. */
export const DEFAULT_SNAPSHOT_DIR = '/var/lib/xen/snapshots';

/** Returns the directory of a host's snapshots. */
export function snapshotDirOf({ snapshotDir }: Pick<Host, 'snapshotDir'>): string {
  return snapshotDir ?? DEFAULT_SNAPSHOT_DIR;
}

/**
 * Returns the options, with a space before each, without which snapshot-list and snapshot-delete do not find these memory files:
 * they look in the host's directory, and in those right below.
 */
export function dirOptions(host: Pick<Host, 'snapshotDir'>, memoryPaths: readonly string[]): string {
  const elsewhere = memoryPaths
    .map((path) => dirname(path))
    .filter((directory) => ![directory, dirname(directory)].includes(snapshotDirOf(host)));
  return [...new Set(elsewhere)].map((directory) => ` --dir ${shellQuote(directory)}`).join('');
}

/**
 * A name from the time of creation, local time, as `20261123-211530`. At the end of summer time an hour comes twice: the
 * second one's names end with `-2`. Never digits alone: qemu-img would take such a tag for the number of a snapshot.
 */
export function nameFromTime(time: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const [year, month, date] = [time.getFullYear(), time.getMonth(), time.getDate()] as const;
  const [hours, minutes, seconds] = [time.getHours(), time.getMinutes(), time.getSeconds()] as const;
  // ECMAScript takes a local time that comes twice for the first one.
  const first = new Date(year, month, date, hours, minutes, seconds, time.getMilliseconds());
  const again = first.getTime() === time.getTime() ? '' : '-2';
  return `${year}${two(month + 1)}${two(date)}-${two(hours)}${two(minutes)}${two(seconds)}${again}`;
}

/** Default path of the memory file. */
export function defaultMemoryPath(snapshotDir: string, uuid: string, name: string): string {
  return join(snapshotDir, uuid, `${name}.save`);
}

/** A path that a hint can propose for an overlay on an image: beside it, unless it is a device. */
export function exampleOverlay(image: string): string {
  const usable = image.startsWith('/') && !image.startsWith('/dev/');
  return usable ? `${image.replace(/\.[^./]*$/, '')}-overlay.qcow2` : '/path/of/overlay.qcow2';
}

/** The journal that belongs to a memory file. */
export function journalPathOf(memoryPath: string): string {
  return `${memoryPath}.journal`;
}

/**
 * Checks names given by a caller of the library as the cfgfile's are checked: the name becomes part of a file name.
 * @throws {UsageError} If one cannot be used
 */
export function checkNames(name: string | undefined, memoryPath: string | undefined): void {
  const problem =
    (name === undefined ? undefined : checkSnapshotName(name)) ??
    (memoryPath === undefined ? undefined : checkPath(memoryPath));
  if (problem === undefined) return;
  throw new UsageError(problem.code, problem.message, { hint: problem.hint });
}
