/** Small questions and changes to files and directories. */
import { randomBytes } from 'node:crypto';
import type { Dirent, Stats } from 'node:fs';
import { link, lstat, mkdir, open, rename, rm, rmdir, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoCode, OutputError } from './errors.ts';

/** Length of the mark that an operation puts into names to tell them from all others. */
const MARK_BYTES = 12;

/** Makes such a mark. */
export function makeMark(): string {
  return randomBytes(MARK_BYTES / 2).toString('hex');
}

/** Tells whether a path exists. Errors other than "no such file" count as existing. */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    const code = errnoCode(error);
    return code !== 'ENOENT' && code !== 'ENOTDIR';
  }
}

/** Describes a file; `undefined` if there is none of that name. */
export async function statMaybe(path: string): Promise<Stats | undefined> {
  return await unlessMissing(stat(path));
}

/** Does the same without following a symbolic link. */
export async function lstatMaybe(path: string): Promise<Stats | undefined> {
  return await unlessMissing(lstat(path));
}

async function unlessMissing(found: Promise<Stats>): Promise<Stats | undefined> {
  try {
    return await found;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errnoCode(error) ?? '')) return undefined;
    throw error;
  }
}

/**
 * Creates a directory and those above it, mode 0700.
 * @returns the highest directory that was created, if any
 * @throws {OutputError} If it cannot be created
 */
export async function makeDirectory(path: string): Promise<string | undefined> {
  try {
    return await mkdir(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new OutputError('OUTPUT_DIRECTORY', `cannot create directory ${path}`, { cause: error });
  }
}

/**
 * Removes the directories that `makeDirectory` made, from `path` up to `highest`, unless there is something in them.
 * @returns whether none of them exists now
 */
export async function unmakeDirectory(path: string, highest: string): Promise<boolean> {
  for (let at = path; at.length >= highest.length; at = dirname(at)) {
    try {
      await rmdir(at);
    } catch (error) {
      const code = errnoCode(error);
      if (code === 'ENOTEMPTY' || code === 'EEXIST') return false;
      if (code !== 'ENOENT') throw error;
    }
  }
  return true;
}

/**
 * Removes a file, if it exists.
 * @returns whether it did
 */
export async function removeIfPresent(path: string): Promise<boolean> {
  if (!(await exists(path))) return false;
  await rm(path, { force: true });
  return true;
}

/**
 * Renames a file, without ever replacing another one. Where the file system has hard links, no moment remains in which a file
 * that another program creates could be lost, and for a moment the file has both names.
 * @throws EEXIST if there is another file of that name, whatever it is; what rename(2) throws
 */
export async function renameNew(from: string, to: string): Promise<void> {
  const linked = await link(from, to).then(
    () => true,
    async (error: unknown) => {
      if (errnoCode(error) !== 'EEXIST') return false;
      // NFS reports this too for a link that it has made, if the first answer was lost.
      if (isSameFile(await lstat(from), await lstat(to))) return true;
      throw error;
    },
  );
  if (linked) return await unlink(from);
  // FAT and some network file systems have no hard links.
  if (await exists(to)) {
    throw Object.assign(new Error(`EEXIST: file already exists, rename '${from}' -> '${to}'`), {
      code: 'EEXIST',
    });
  }
  await rename(from, to);
}

/** What tells a file that is reserved from another program's, whatever happens. */
export interface Reservation {
  /** A part of the file's first name that no other program uses: `[0-9a-z-]`. */
  readonly mark: string;
  /** Records the file's inode number, before it gets its name. */
  readonly note: (inode: number) => void | Promise<void>;
}

/** The name of a reserved file before its inode number is known. */
function newPath(path: string, mark: string): string {
  return `${path}.new-${mark}`;
}

/** Bytes that a name needs for a moment in addition to its own. */
export const RESERVE_BYTES = '.new-'.length + MARK_BYTES;

/**
 * Creates an empty file, mode 0600, and never takes another program's for it, not even after a kill: it has a name of its own until
 * its inode number is recorded.
 * @returns its inode number
 * @throws EEXIST if there is a file of that name, whatever it is; what open(2) and link(2) throw
 */
export async function reserveFile(path: string, { mark, note }: Reservation): Promise<number> {
  const first = newPath(path, mark);
  try {
    await using file = await open(first, 'wx', 0o600);
    const { ino } = await file.stat();
    await note(ino);
    await renameNew(first, path);
    return ino;
  } catch (error) {
    await rm(first, { force: true });
    throw error;
  }
}

/**
 * Removes a file that was reserved, whatever it holds by now; another program's of that name stays.
 * @param reserved `mark`: empty in journals of earlier versions, which reserved nothing; `inode`: what was recorded; `undefined`
 * if nothing was
 * @returns whether there was one
 */
export async function removeReserved(
  path: string,
  { mark, inode }: { readonly mark: string; readonly inode: number | undefined },
): Promise<boolean> {
  const first = mark !== '' && (await removeIfPresent(newPath(path, mark)));
  if (inode === undefined || (await lstatMaybe(path))?.ino !== inode) return first;
  return (await removeIfPresent(path)) || first;
}

/** What identifies a file on this machine. */
export interface FileIdentity {
  readonly dev: number;
  readonly ino: number;
}

export function isSameFile(one: FileIdentity, other: FileIdentity): boolean {
  return one.dev === other.dev && one.ino === other.ino;
}

/** Makes the names in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  await syncFile(path);
}

/** Makes what has been written to a file durable. */
export async function syncFile(path: string): Promise<void> {
  await using file = await open(path, 'r');
  await file.sync();
}

/** Finds the nearest directory at or above a path that exists. */
export async function nearestDirectory(path: string): Promise<string> {
  let at = path;
  for (;;) {
    try {
      if ((await stat(at)).isDirectory()) return at;
    } catch {
      // Try the one above.
    }
    const above = dirname(at);
    if (above === at) return at;
    at = above;
  }
}

/**
 * Finds the entries with an ending in some directories, and in the directories right below some of those. A symbolic link to a
 * directory counts as one: whoever put it there moved the directory.
 * @param withBelow those of `directories` whose subdirectories are read too
 * @param entriesOf reads a directory, and decides what an unreadable one means
 * @returns their paths, each once
 */
export async function findByEnding(
  ending: string,
  directories: readonly string[],
  withBelow: readonly string[],
  entriesOf: (directory: string) => Promise<readonly Dirent[]>,
): Promise<readonly string[]> {
  const paths = new Set<string>();
  const add = (directory: string, entries: readonly Dirent[]): void => {
    for (const { name } of entries) if (name.endsWith(ending)) paths.add(join(directory, name));
  };
  for (const top of directories) {
    const entries = await entriesOf(top);
    add(top, entries);
    if (!withBelow.includes(top)) continue;
    for (const entry of entries) {
      const directory = join(top, entry.name);
      if (await isDirectory(entry, directory)) add(directory, await entriesOf(directory));
    }
  }
  return [...paths];
}

async function isDirectory(entry: Dirent, path: string): Promise<boolean> {
  if (!entry.isSymbolicLink()) return entry.isDirectory();
  return (await stat(path).catch(() => undefined))?.isDirectory() === true;
}
