/** Implements the port `MemoryClones` by the ioctl FICLONE, through Node. */
import { chmod, copyFile, constants as files, open, stat } from 'node:fs/promises';
import { OutputError } from '../../core/errors.ts';
import type { MemoryClones } from '../../snapshot/track/clones.ts';
import { hasMoreExtents } from '../../xenctrl/shared-extents.ts';
import { FicloneClones, O_TMPFILE } from './clones.ts';

/**
 * A file is not cloned if its extents are shorter than this on average, in bytes. FICLONE takes some 25 µs of system time for each
 * (XFS), so that a clone would take about as long as copying all memory; a full copy is in few extents again.
 */
const SHORT_EXTENTS = 32 * 1024;

export class FicloneMemoryClones implements MemoryClones {
  async obstacle(directory: string): Promise<string | undefined> {
    let file: Awaited<ReturnType<typeof open>> | undefined;
    try {
      file = await open(directory, O_TMPFILE | files.O_RDWR, 0o600);
      // Some file systems take a file without content for one that they need not clone.
      await file.write(Buffer.alloc(4096, 1));
      return await new FicloneClones().obstacle(`/proc/self/fd/${file.fd}`, directory);
    } catch {
      return `the file system of ${directory} has no reflinks`;
    } finally {
      await file?.close();
    }
  }

  async clone(from: string, to: string): Promise<void> {
    if (await isScattered(from).catch(() => false)) {
      throw new OutputError(
        'CLONE',
        'the last memory file is in so many pieces that a clone would take longer',
      );
    }
    try {
      const { mode } = await stat(to);
      await copyFile(from, to, files.COPYFILE_FICLONE_FORCE);
      // libuv gives it that of the other file.
      await chmod(to, mode & 0o7777);
    } catch (cause) {
      throw new OutputError('CLONE', `cannot clone to ${to}`, { cause });
    }
  }
}

async function isScattered(path: string): Promise<boolean> {
  await using file = await open(path);
  return await hasMoreExtents(file.fd, (await file.stat()).size / SHORT_EXTENTS);
}
