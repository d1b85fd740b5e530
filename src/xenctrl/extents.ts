import { statfsSync } from 'node:fs';
import { EnvironmentError } from '../core/errors.ts';
import type { Extents } from '../core/extents.ts';
import { LIBC } from './declarations.ts';
import { bind, loadKoffi } from './native.ts';

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;

/**
 * Magic numbers (statfs(2)) of file systems that tell holes rightly while what was written is still in the page cache: tmpfs,
 * ext4, xfs, btrfs. Others have called such data a hole (ZFS), or ask a server that does not have it yet (FUSE).
 */
const TRUSTED: readonly number[] = [0x0102_1994, 0xef53, 0x5846_5342, 0x9123_683e];

/**
 * Where a regular file has data, as its file system tells (lseek(2), SEEK_DATA). One that knows no holes says that
 * all of it is data. Moves the offset of `fd`, which pread(2) does not use.
 * @param fd stays the caller's, and open as long as this is used
 * @throws EnvironmentError when the C library cannot be called; from the answer, when the file cannot be asked
 */
export async function fileExtents(fd: number): Promise<Extents> {
  const { lseek } = bind(await loadKoffi(), LIBC);
  const seek = (offset: number, whence: number): number | undefined => {
    const { value, errno } = lseek.callHere(fd, offset, whence);
    if (value >= 0) return Number(value);
    if (errno === ENXIO) return undefined;
    throw new EnvironmentError('LSEEK', `lseek of a file failed with errno ${errno}`);
  };
  return {
    from(offset) {
      const start = seek(offset, SEEK_DATA);
      if (start === undefined) return undefined;
      return { start, end: seek(start, SEEK_HOLE) ?? start };
    },
  };
}

/**
 * The same for a file that has just been written: where the file system is not known to tell rightly of what is not on
 * the disk yet, all is data.
 * @throws as `fileExtents`
 */
export async function writtenExtents(fd: number): Promise<Extents> {
  if (TRUSTED.includes(statfsSync(`/proc/self/fd/${fd}`).type)) return await fileExtents(fd);
  return { from: (offset) => ({ start: offset, end: Number.POSITIVE_INFINITY }) };
}
