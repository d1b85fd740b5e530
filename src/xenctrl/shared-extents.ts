/** Finds out in how many extents a file is, and how much of it its file system shares with other files. */
import { LIBC } from './declarations.ts';
import { bind, loadKoffi } from './native.ts';

/** FS_IOC_FIEMAP, and its structs (linux/fiemap.h, linux/fs.h). */
const FS_IOC_FIEMAP = 0xc020660b;
const HEAD_BYTES = 32;
const FM_LENGTH_AT = 8;
const MAPPED_AT = 20;
const COUNT_AT = 24;
const EXTENT_BYTES = 56;
const LENGTH_AT = 16;
const FLAGS_AT = 40;
const FIEMAP_EXTENT_LAST = 0x1;
const FIEMAP_EXTENT_SHARED = 0x2000;

/** Extents asked for in one call: a quarter of a megabyte. */
const PER_CALL = 4096;

export interface SharedOptions {
  /** Gives up at that time, by `performance.now()`. */
  readonly deadline: number;
}

/**
 * Adds up what a regular file shares (ioctl(2), FIEMAP), as far as it is on the disk: its own part is in no other file.
 * @param fd remains the caller's
 * @returns bytes; undefined if the file system does not say, or not in time
 * @throws {EnvironmentError} If the C library cannot be called
 */
export async function sharedBytes(fd: number, { deadline }: SharedOptions): Promise<number | undefined> {
  let shared = 0;
  for await (const extents of mappedExtents(fd)) {
    if (extents === undefined) return undefined;
    for (const { length, flags } of extents) if ((flags & FIEMAP_EXTENT_SHARED) !== 0) shared += length;
    if (performance.now() >= deadline) return undefined;
  }
  return shared;
}

/**
 * Returns whether a regular file is in more extents than that; false if the file system does not say.
 * @param fd remains the caller's
 * @throws {EnvironmentError} If the C library cannot be called
 */
export async function hasMoreExtents(fd: number, limit: number): Promise<boolean> {
  let count = 0;
  for await (const extents of mappedExtents(fd)) {
    count += extents?.length ?? 0;
    if (count > limit) return true;
  }
  return false;
}

interface MappedExtent {
  readonly length: number;
  readonly flags: number;
}

/** The extents of a file, many at a time; undefined if the file system refuses. */
async function* mappedExtents(fd: number): AsyncGenerator<readonly MappedExtent[] | undefined> {
  const { ioctl } = bind(await loadKoffi(), LIBC);
  const buffer = Buffer.alloc(HEAD_BYTES + PER_CALL * EXTENT_BYTES);
  for (let from = 0n; ; ) {
    buffer.fill(0, 0, HEAD_BYTES);
    buffer.writeBigUInt64LE(from, 0);
    buffer.writeBigUInt64LE(2n ** 64n - 1n - from, FM_LENGTH_AT);
    buffer.writeUInt32LE(PER_CALL, COUNT_AT);
    const { value } = await ioctl.call(fd, FS_IOC_FIEMAP, buffer);
    if (value !== 0) yield undefined;
    const count = value === 0 ? buffer.readUInt32LE(MAPPED_AT) : 0;
    if (count === 0) return;
    const extents: MappedExtent[] = [];
    for (let at = HEAD_BYTES; at < HEAD_BYTES + count * EXTENT_BYTES; at += EXTENT_BYTES) {
      const length = buffer.readBigUInt64LE(at + LENGTH_AT);
      extents.push({ length: Number(length), flags: buffer.readUInt32LE(at + FLAGS_AT) });
      from = buffer.readBigUInt64LE(at) + length;
    }
    yield extents;
    if (((extents.at(-1)?.flags ?? 0) & FIEMAP_EXTENT_LAST) !== 0) return;
  }
}
