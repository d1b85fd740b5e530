/**
 * Finds what dom0's kernel has open: files by loop devices and swap, block devices by blkback, the device mapper, mounts
 * and swap. Reads sysfs and /proc only; mounts of other mount namespaces are not seen.
 */
import { readdir, readFile, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { exists } from '../../core/files.ts';
import { unescapeMount } from '../../core/mount-escapes.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { ImageUse } from '../../snapshot/ports.ts';

/** A domain that uses a block device by blkback. */
export type BlkbackUser = Pick<ImageUse, 'domid' | 'holder' | 'writable'>;

/** Where the kernel shows its devices. Default: `/sys` and `/proc`. */
export interface KernelRoots {
  readonly sys: string;
  readonly proc: string;
}

/** Who uses a file or block device, and how to make that let go. */
type User = Omit<ImageUse, 'path' | 'format'>;

/** What d_path in fs/d_path.c appends to the name of a file that was removed. */
const DELETED = ' (deleted)';

/**
 * Returns the files and block devices that dom0's kernel has open, block devices as `/dev/NAME`. A use of a partition is also one
 * of the whole disk, and the other way round.
 *
 * A file that was removed while a loop device has it open is left out: whatever has its name now is another file.
 * @param domains the domains that blkback serves, by device number: `7:0`
 */
export async function kernelUsers(
  domains: ReadonlyMap<string, BlkbackUser>,
  roots: KernelRoots = { sys: '/sys', proc: '/proc' },
): Promise<readonly ImageUse[]> {
  const devices = await readDevices(roots.sys);
  const direct = [
    ...(await loopUsers(devices, domains)),
    ...(await holders(devices)),
    ...(await mounts(devices, roots.proc)),
    ...(await swaps(roots.proc)),
    ...devices.flatMap(({ path, number }) => {
      const user = domains.get(number);
      return user === undefined ? [] : [{ ...user, path }];
    }),
  ];
  const related = relatives(devices);
  const all = direct.flatMap((use) => [
    use,
    ...(related.get(use.path) ?? []).map((path) => ({ ...use, path })),
  ]);
  // Nothing in the kernel reads an image's format.
  return all.map((use) => ({ ...use, format: 'raw' }));
}

interface Device {
  /** `/dev/sda1` */
  readonly path: string;
  /** Major and minor number: `8:1`. */
  readonly number: string;
  /** Its directory in sysfs, without links: a partition's is in that of its disk. */
  readonly directory: string;
  readonly isPartition: boolean;
}

type Use = User & { readonly path: string };

async function readDevices(sys: string): Promise<readonly Device[]> {
  const all = join(sys, 'class/block');
  const devices: Device[] = [];
  for (const name of await namesIn(all)) {
    const number = await textOf(join(all, name, 'dev'));
    const directory = await realpath(join(all, name)).catch(() => undefined);
    // It may go while we look.
    if (number === undefined || directory === undefined) continue;
    const isPartition = await exists(join(directory, 'partition'));
    devices.push({ path: devicePath(name), number, directory, isPartition });
  }
  return devices;
}

/** Returns the device of one of sysfs's names, in which a slash is an exclamation mark (`cciss!c0d0`). */
function devicePath(name: string): string {
  return `/dev/${name.replaceAll('!', '/')}`;
}

/** Finds the files of loop devices. */
async function loopUsers(
  devices: readonly Device[],
  domains: ReadonlyMap<string, BlkbackUser>,
): Promise<readonly Use[]> {
  const uses: Use[] = [];
  for (const { path: loop, number, directory } of devices) {
    const file = await textOf(join(directory, 'loop/backing_file'));
    if (file === undefined || (file.endsWith(DELETED) && !(await exists(file)))) continue;
    const writable = (await textOf(join(directory, 'ro'))) !== '1';
    const user = domains.get(number) ?? {
      domid: undefined,
      holder: loop,
      writable,
      release: `detach it (losetup -d ${loop})`,
    };
    uses.push({ ...user, path: file });
  }
  return uses;
}

/** Finds the devices that are built on others: the device mapper's, and those of md and bcache. */
async function holders(devices: readonly Device[]): Promise<readonly Use[]> {
  const uses: Use[] = [];
  for (const { path, directory } of devices) {
    for (const name of await namesIn(join(directory, 'holders'))) {
      const mapped = await textOf(join(directory, 'holders', name, 'dm/name'));
      const holder = mapped === undefined ? devicePath(name) : `/dev/mapper/${mapped}`;
      uses.push({ path, domid: undefined, holder, writable: true, release: `take ${holder} down` });
    }
  }
  return uses;
}

/** Finds the block devices that are mounted in our mount namespace (proc_pid_mountinfo(5)). */
async function mounts(devices: readonly Device[], proc: string): Promise<readonly Use[]> {
  const uses = new Map<string, Use>();
  for (const line of (await textOf(join(proc, 'self/mountinfo')))?.split('\n') ?? []) {
    const [before = '', after = ''] = line.split(' - ');
    const [, , number, , directory = ''] = before.split(' ');
    const source = unescapeMount(after.split(' ')[1] ?? '');
    // A file system on several devices, such as btrfs, has a number of its own and names one of them.
    const path = devices.find((device) => device.number === number)?.path ?? source;
    if (!path.startsWith('/dev/') || uses.has(path)) continue;
    const at = unescapeMount(directory);
    uses.set(path, {
      path,
      domid: undefined,
      holder: `the file system at ${at}`,
      writable: true,
      release: `unmount it (umount ${shellQuote(at)})`,
    });
  }
  return [...uses.values()];
}

/** Finds the files and block devices of swap space (proc_swaps(5)). */
async function swaps(proc: string): Promise<readonly Use[]> {
  const [, ...lines] = (await textOf(join(proc, 'swaps')))?.split('\n') ?? [];
  return lines.flatMap((line) => {
    const path = unescapeMount(line.split(/\s/)[0] ?? '');
    if (path === '') return [];
    return [
      {
        path,
        domid: undefined,
        holder: 'swap',
        writable: true,
        release: `turn it off (swapoff ${shellQuote(path)})`,
      },
    ];
  });
}

/** Returns each partition's disk, and each disk's partitions. */
function relatives(devices: readonly Device[]): ReadonlyMap<string, readonly string[]> {
  const disks = new Map(devices.map(({ directory, path }) => [directory, path]));
  const found = new Map<string, string[]>();
  const add = (path: string, other: string): void => {
    found.set(path, [...(found.get(path) ?? []), other]);
  };
  for (const { path, directory, isPartition } of devices) {
    const disk = isPartition ? disks.get(dirname(directory)) : undefined;
    if (disk === undefined) continue;
    add(path, disk);
    add(disk, path);
  }
  return found;
}

async function namesIn(directory: string): Promise<readonly string[]> {
  return await readdir(directory).catch(() => []);
}

/** Returns the text of one of the kernel's files, without its last line feed; `undefined` if there is none. */
async function textOf(path: string): Promise<string | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  return text?.replace(/\n$/, '');
}
