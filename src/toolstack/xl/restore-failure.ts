/** Explains in one line why an `xl restore` failed. */
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';

const LOGS = '/var/log/xen';
/** Number of bytes at the end of QEMU's log that are read. */
const TAIL = 16 * 1024;
/** Number of errors that are quoted: the first says why, the last what followed. */
const FIRST = 2;

/**
 * The place in libxl's source at the start of its messages: `libxl: error:
 * libxl_dm.c:2971:device_model_spawn_outcome: `.
 */
const PLACE =
  /^(libxl|libxl-save-helper|xc): (?:error|detail|warning): (?:[a-z_]+\.c:[0-9]+:[a-zA-Z0-9_]+: )?/;

/**
 * Returns xl's first error and its last: libxl reports the cause first, then what it cleans up.
 * @param complaint everything that xl wrote to stderr
 */
export function firstCause(complaint: string): string {
  const lines = complaint
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  const errors = lines.filter((line) => /error|fail|cannot|could not|unable|not found|no such/i.test(line));
  const plain = (errors.length > 0 ? errors : lines).map((line) => line.replace(PLACE, ''));
  const told = [...new Set([...plain.slice(0, FIRST), ...plain.slice(-1)])];
  return told.join('; ') || 'it printed nothing';
}

/** Returns whether xl's errors are about the device model. */
export function isOfDeviceModel(complaint: string): boolean {
  return /device[ -]model|qemu|qmp/i.test(complaint);
}

/**
 * Returns the last line that a domain's QEMU wrote to its log.
 * @param since when the restore began, in milliseconds since 1970: an older log is of another QEMU
 * @returns `undefined` if there is none
 */
export async function lastOfQemuLog(
  domain: string,
  since: number,
  logs: string = LOGS,
): Promise<{ readonly path: string; readonly line: string } | undefined> {
  if (domain.includes('/')) return undefined;
  const path = join(logs, `qemu-dm-${domain}.log`);
  try {
    const { size, mtimeMs } = await stat(path);
    // A file system may store whole seconds only.
    if (mtimeMs < Math.floor(since / 1000) * 1000) return undefined;
    await using file = await open(path);
    const buffer = Buffer.alloc(Math.min(size, TAIL));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, size - buffer.length);
    const lines = buffer.subarray(0, bytesRead).toString('utf8').split('\n');
    const line = lines.map((text) => text.trim()).findLast((text) => text !== '');
    return line === undefined ? undefined : { path, line };
  } catch {
    return undefined;
  }
}
