/** Finds out where a file has data and where it has holes. */
import { statfsSync } from 'node:fs';
import { EnvironmentError } from '../core/errors.ts';
import type { Extents } from '../core/extents.ts';
import { LIBC } from './declarations.ts';
import { bind, loadKoffi } from './native.ts';

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;

/**
 * Magic numbers (statfs(2)) of file systems that report holes correctly while written data is still in the
 * page cache: tmpfs, ext4, xfs, btrfs. Others have reported such data as a hole (ZFS), or ask a server that
 * does not have the data yet (FUSE).
 */
const TRUSTED: readonly number[] = [0x0102_1994, 0xef53, 0x5846_5342, 0x9123_683e];

/**
 * Returns where a regular file has data, as its file system reports (lseek(2), SEEK_DATA). A file system
 * without holes reports all of it as data. Moves the offset of `fd`, which pread(2) does not use.
 * @param fd remains the caller's, and must stay open while the result is used
 * @throws {EnvironmentError} If the C library cannot be called. The result's function throws it if the file
 * system refuses.
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
 * Does the same for a file that has just been written. Unless the file system is known to report correctly
 * what is not on disk yet, everything counts as data.
 * @throws {EnvironmentError} As `fileExtents` does.
 */
export async function writtenExtents(fd: number): Promise<Extents> {
  if (TRUSTED.includes(statfsSync(`/proc/self/fd/${fd}`).type)) return await fileExtents(fd);
  return { from: (offset) => ({ start: offset, end: Number.POSITIVE_INFINITY }) };
}
