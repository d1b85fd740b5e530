/** Finds overlays that nobody has open, by reading the headers of the files in some directories. */
import { constants } from 'node:fs';
import { open, readdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { truePath } from './chain.ts';

/** QFI\xfb */
const QCOW2_MAGIC = 0x514649fb;
/** Header fields: the magic, the version, and place and length of the backing file's name (docs/interop/qcow2.txt). */
const HEADER_BYTES = 20;
const MAX_NAME_BYTES = 1023;

/**
 * Lists the qcow2 images in some directories whose backing file is one of these images. Only headers are read, and no
 * backing file is opened: a guest may have written what looks like a header into its raw disk.
 * @param images their true names
 * @returns paths, sorted, each with the image that it is on
 */
export async function overlaysOn(
  images: readonly string[],
  directories: readonly string[],
): Promise<readonly { readonly path: string; readonly base: string }[]> {
  const found = new Map<string, string>();
  for (const directory of new Set(directories)) {
    const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
    for (const entry of entries) {
      if (!entry.isFile() && !entry.isSymbolicLink()) continue;
      const path = await truePath(join(directory, entry.name));
      const base = await backingFile(path);
      if (base !== undefined && images.includes(base)) found.set(path, base);
    }
  }
  return [...found].map(([path, base]) => ({ path, base })).sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** The true name of a qcow2 image's backing file; `undefined` if it has none, or is not a qcow2 image. */
async function backingFile(path: string): Promise<string | undefined> {
  // In /dev there are links to what does something when it is opened.
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() !== true && found?.isBlockDevice() !== true) return undefined;
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch(() => undefined);
  if (file === undefined) return undefined;
  try {
    const read = async (position: number, length: number): Promise<Buffer> => {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
      return buffer.subarray(0, bytesRead);
    };
    const header = await read(0, HEADER_BYTES);
    if (header.length < HEADER_BYTES || header.readUInt32BE(0) !== QCOW2_MAGIC) return undefined;
    const length = header.readUInt32BE(16);
    if (length === 0 || length > MAX_NAME_BYTES) return undefined;
    const name = (await read(Number(header.readBigUInt64BE(8)), length)).toString();
    return await truePath(resolve(dirname(path), name.replace(/^file:/, '')));
  } catch {
    // A directory of images may have files that cannot be read as one.
    return undefined;
  } finally {
    await file.close();
  }
}
