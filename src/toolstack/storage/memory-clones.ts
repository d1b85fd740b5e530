/** Implements the port `MemoryClones` by the ioctl FICLONE, through Node. */
import { chmod, copyFile, constants as files, open, stat } from 'node:fs/promises';
import { OutputError } from '../../core/errors.ts';
import type { MemoryClones } from '../../snapshot/track/clones.ts';
import { FicloneClones, O_TMPFILE } from './clones.ts';

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
