/** Finds the block device that a directory's files are on. */
import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { unescapeMount } from '../core/mount-escapes.ts';
import { numbersOf } from '../toolstack/storage/places.ts';

/** A directory's file system, and the device that it is on. */
export interface Storage {
  /** Its type: `ext4`, `tmpfs`. */
  readonly fileSystem: string;
  /** Where the kernel describes the device; `undefined` if there is none, or there are several. */
  readonly device: string | undefined;
}

/** Where the kernel describes block devices, by their numbers. */
const DEVICES = '/sys/dev/block';
/** Bytes in a sector of the kernel's counters, whatever the device's own are (Documentation/admin-guide/iostats.rst). */
const SECTOR = 512;

/**
 * Finds out what a directory is on.
 * @param devices for tests
 */
export async function findStorage(directory: string, devices = DEVICES): Promise<Storage> {
  const path = `${await realpath(directory)}/`;
  let found = { source: '', point: '', type: 'unknown' };
  for (const line of (await readFile('/proc/self/mounts', 'utf8')).split('\n')) {
    const [source = '', escaped = '', type = ''] = line.split(' ');
    const point = unescapeMount(escaped);
    const below = path.startsWith(point.endsWith('/') ? point : `${point}/`);
    // Later mounts hide earlier ones.
    if (below && point.length >= found.point.length && point !== '')
      found = { source: unescapeMount(source), point, type };
  }
  const { dev } = await stat(directory);
  // btrfs gives its files the number of no device.
  const source = await stat(found.source).catch(() => undefined);
  const numbers = [dev, ...(source?.isBlockDevice() === true ? [source.rdev] : [])].map(numbersOf);
  for (const { major, minor } of numbers) {
    const device = await realpath(join(devices, `${major}:${minor}`)).catch(() => undefined);
    if (device !== undefined) return { fileSystem: found.type, device };
  }
  return { fileSystem: found.type, device: undefined };
}

/**
 * Describes a device: `Samsung SSD 980 PRO (nvme0n1)`, `dm-0 on Samsung SSD 980 PRO (nvme0n1)`; its name alone where the kernel knows
 * no model, as of a virtual disk.
 */
export async function describeDevice(device: string): Promise<string> {
  const name = basename(device);
  const below = await readdir(join(device, 'slaves')).catch(() => []);
  if (below.length > 0) {
    const described = below.map(async (entry) =>
      describeDevice(
        await realpath(join(device, 'slaves', entry)).catch(() => join(device, 'slaves', entry)),
      ),
    );
    return `${name} on ${(await Promise.all(described)).join(', ')}`;
  }
  // A partition is in the directory of its disk.
  const disk = (await readMaybe(join(device, 'partition'))) === undefined ? device : dirname(device);
  const model = await readMaybe(join(disk, 'device', 'model'));
  return model === undefined ? basename(disk) : `${model} (${basename(disk)})`;
}

/** Reads how many bytes have been written to a device since the machine started, by all programs. */
export async function bytesWritten(device: string): Promise<number | undefined> {
  const text = await readMaybe(join(device, 'stat'));
  // Reads completed, merged, sectors, ms; then the same of writes.
  const sectors = Number(text?.split(/\s+/)[6]);
  return Number.isSafeInteger(sectors) ? sectors * SECTOR : undefined;
}

/** Reads a small file of sysfs, without the white space around its text. */
export async function readMaybe(path: string): Promise<string | undefined> {
  return await readFile(path, 'utf8')
    .then((text) => text.trim())
    .catch(() => undefined);
}
