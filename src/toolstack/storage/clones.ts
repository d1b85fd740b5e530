/** Implements the port `Clones` by the ioctl FICLONE, through Node, and cp for attributes. */
import { copyFile, type FileHandle, constants as files, open } from 'node:fs/promises';
import { DiskError, errnoCode } from '../../core/errors.ts';
import type { Clones, KnownFile } from '../../snapshot/storage/clones.ts';
import { runProgram } from '../process/run.ts';

/** O_TMPFILE (asm-generic/fcntl.h), which Node does not name: a file without a name, in a directory. */
export const O_TMPFILE = 0o20200000;

/** Time limit for cp in milliseconds; it copies attributes only. */
const TIMEOUT_MS = 60_000;

export class FicloneClones implements Clones {
  async obstacle(image: string, directory: string): Promise<string | undefined> {
    let file: FileHandle;
    try {
      file = await open(directory, O_TMPFILE | files.O_RDWR, 0o600);
    } catch (error) {
      const code = errnoCode(error);
      if (code === 'EOPNOTSUPP' || code === 'ENOTSUP' || code === 'EISDIR') return noReflinks(directory);
      return `cannot write in ${directory}: ${wordsOf(error)}`;
    }
    try {
      // Nothing is left whatever happens.
      await clone(image, openPath(file));
      return undefined;
    } catch (error) {
      switch (errnoCode(error)) {
        case 'EOPNOTSUPP':
        case 'ENOTSUP':
        case 'ENOTTY':
        case 'ENOSYS':
          return noReflinks(directory);
        case 'EXDEV':
          return `${directory} is on another file system`;
        case 'EINVAL':
          return `its file system refuses it (are both without the attribute C of chattr, or both with it?)`;
        default:
          return wordsOf(error);
      }
    } finally {
      await file.close();
    }
  }

  async flush(path: string): Promise<void> {
    try {
      await using file = await open(path);
      await file.datasync();
    } catch (cause) {
      throw new DiskError('FLUSH', `cannot write out what is cached of ${path}`, { cause });
    }
  }

  async clone(from: KnownFile, to: KnownFile): Promise<void> {
    try {
      // By what is open: libuv would overwrite, and after a failure remove, whatever has the name by then.
      await using target = await open(to.path, files.O_RDWR | files.O_NOFOLLOW);
      const { ino, size } = await target.stat();
      if (size > 0 || (to.inode !== undefined && ino !== to.inode)) {
        throw new Error(`another file has taken the place of ${to.path}`);
      }
      await using source = await open(from.path);
      if (from.inode !== undefined && (await source.stat()).ino !== from.inode) {
        throw new Error(`another file has taken the place of ${from.path}`);
      }
      await clone(openPath(source), openPath(target));
    } catch (cause) {
      throw new DiskError('CLONE', `cannot clone ${from.path} to ${to.path}`, { cause });
    }
  }

  async copyAttributes(from: string, to: string): Promise<void> {
    const args = ['--attributes-only', '--preserve=mode,ownership,xattr', '--', from, to];
    const { status, stderr } = await runProgram('cp', args, { timeoutMs: TIMEOUT_MS });
    if (status === 0) return;
    throw new DiskError('CLONE_ATTRIBUTES', `cannot give ${to} the attributes of ${from}: ${stderr.trim()}`);
  }
}

/** The name that the kernel gives to an open file. */
function openPath({ fd }: FileHandle): string {
  return `/proc/self/fd/${fd}`;
}

async function clone(from: string, to: string): Promise<void> {
  await copyFile(from, to, files.COPYFILE_FICLONE_FORCE);
}

function noReflinks(directory: string): string {
  return `the file system of ${directory} has no reflinks`;
}

function wordsOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
