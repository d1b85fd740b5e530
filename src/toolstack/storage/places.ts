/**
 * Finds what a disk lies on, by the numbers of its device: a path may mean another file by now, and blkback's disk on a file is a
 * loop device, whatever the configuration names.
 */
import { readFile, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DiskPlace } from '../../snapshot/storage/port.ts';
import type { ResolvedDisk } from '../qemu/disks.ts';

/** The numbers of a block device. */
export interface DeviceNumbers {
  readonly major: number;
  readonly minor: number;
}

/** Where the kernel describes block devices, by their numbers. */
const DEVICES = '/sys/dev/block';

/**
 * Finds what a disk lies on.
 * @param devices for tests
 * @returns `undefined` if dom0 does not serve it, it is not raw, or that cannot be found out
 */
export async function findPlace(
  { backend, path, format }: Pick<ResolvedDisk, 'backend' | 'path' | 'format'>,
  devices = DEVICES,
): Promise<DiskPlace | undefined> {
  if (backend?.domid !== 0 || path === undefined || format !== 'raw') return undefined;
  if (backend.kind === 'vbd') {
    const numbers = parseDevice(backend.device);
    return numbers === undefined ? undefined : await placeOfDevice(path, numbers, devices);
  }
  if (backend.kind !== 'qdisk') return undefined;
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() === true) return { kind: 'file', path: await realpath(path) };
  if (found?.isBlockDevice() !== true) return undefined;
  return await placeOfDevice(path, numbersOf(found.rdev), devices);
}

/**
 * Parses what blkback's script writes to `physical-device`: `fd:0`, in hexadecimal (tools/hotplug/Linux/block-common.sh:
 * write_dev).
 */
export function parseDevice(text: string | undefined): DeviceNumbers | undefined {
  const [, major, minor] = /^([0-9a-f]{1,8}):([0-9a-f]{1,8})$/i.exec(text ?? '') ?? [];
  if (major === undefined || minor === undefined) return undefined;
  return { major: Number.parseInt(major, 16), minor: Number.parseInt(minor, 16) };
}

/** Splits the number of a device as glibc does (gnu_dev_major, gnu_dev_minor). */
export function numbersOf(rdev: number): DeviceNumbers {
  const bits = BigInt(rdev);
  const major = ((bits >> 8n) & 0xfffn) | ((bits >> 32n) & 0xfffff000n);
  const minor = (bits & 0xffn) | ((bits >> 12n) & 0xffffff00n);
  return { major: Number(major), minor: Number(minor) };
}

async function placeOfDevice(
  path: string,
  numbers: DeviceNumbers,
  devices: string,
): Promise<DiskPlace | undefined> {
  const loop = await loopFile(numbers, devices);
  if (loop === undefined) return { kind: 'device', path, ...numbers };
  // A part of a file is not a disk of its own.
  return loop.whole ? { kind: 'file', path: loop.path } : undefined;
}

/** The file of a loop device, by its numbers; `undefined` for another device, and a loop device without a file. */
export async function loopFile(
  { major, minor }: DeviceNumbers,
  devices = DEVICES,
): Promise<{ readonly path: string; readonly whole: boolean } | undefined> {
  const read = async (name: string): Promise<string | undefined> =>
    await readFile(join(devices, `${major}:${minor}`, 'loop', name), 'utf8')
      .then((text) => text.replace(/\n$/, ''))
      .catch(() => undefined);
  const path = await read('backing_file');
  if (path === undefined) return undefined;
  const [offset, limit] = [await read('offset'), await read('sizelimit')];
  // The kernel adds " (deleted)" to the name of a file that was removed or replaced.
  const there = await stat(path).catch(() => undefined);
  return { path, whole: offset === '0' && limit === '0' && there?.isFile() === true };
}
