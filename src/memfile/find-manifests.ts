/** Finds snapshots by their manifests. Needs no Xen. */
import { readdir, realpath, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { EnvironmentError, errnoCode } from '../core/errors.ts';
import { findByEnding, statMaybe } from '../core/files.ts';
import { shellQuote } from '../core/shell-quote.ts';
import { type Manifest, ManifestError, readManifest } from './manifest.ts';
import { manifestPathOf } from './names.ts';

const ENDING = manifestPathOf('');
/** End of a memory file's default name. */
const MEMORY_ENDING = '.save';

/** A snapshot by its manifest. */
export interface FoundManifest {
  /** The memory file that the manifest is beside; it need not exist. */
  readonly memoryPath: string;
  readonly manifest: Manifest;
}

/** A manifest that cannot be read as one, or that another user could have written. */
export interface DamagedManifest {
  readonly memoryPath: string;
  readonly error: ManifestError;
}

export interface FoundManifests {
  readonly found: readonly FoundManifest[];
  readonly damaged: readonly DamagedManifest[];
}

/**
 * Reads all manifests in some directories and in the directories right below them, or in those that a symbolic link there leads
 * to; each file once. Other files in JSON are left out, unless they are beside a memory file.
 *
 * A manifest says which tags and images belong to a snapshot. So one that is found counts only if it belongs to the caller or to
 * root, and nobody else may write to it, wherever it is.
 * @param directories absolute; one that does not exist has none
 * @param withBelow those of them whose subdirectories are read too; all by default. Below a directory that xlsnap does not
 * own may be anything: a mount that hangs, or that root cannot read
 * @throws {EnvironmentError} If a directory cannot be read
 */
export async function findManifests(
  directories: readonly string[],
  withBelow: readonly string[] = directories,
): Promise<FoundManifests> {
  const found: FoundManifest[] = [];
  const damaged: DamagedManifest[] = [];
  const seen = new Set<string>();
  for (const manifestPath of await findByEnding(ENDING, directories, withBelow, entriesOf)) {
    // A directory may be given under two names.
    const real = await realpath(manifestPath).catch(() => manifestPath);
    if (seen.has(real)) continue;
    seen.add(real);
    const memoryPath = manifestPath.slice(0, -ENDING.length);
    try {
      const manifest = (await isFile(manifestPath)) ? await readManifest(manifestPath) : undefined;
      if (manifest === undefined) continue;
      await refuseForeign(manifestPath);
      found.push({ memoryPath, manifest });
    } catch (error) {
      if (!(error instanceof ManifestError)) throw error;
      if (await isMemory(memoryPath)) damaged.push({ memoryPath, error });
    }
  }
  return { found, damaged };
}

/** Sorts snapshots by their time of creation, newest last. */
export function byAge(some: readonly FoundManifest[]): readonly FoundManifest[] {
  const time = ({ manifest }: FoundManifest): number => Date.parse(manifest.created) || 0;
  return [...some].sort((a, b) => time(a) - time(b) || (a.manifest.name < b.manifest.name ? -1 : 1));
}

/** The name that a snapshot without a readable manifest seems to have, from its file's. */
export function nameOfFile(memoryPath: string): string {
  return basename(memoryPath, MEMORY_ENDING);
}

/** Nobody waits for what is a FIFO there. */
async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() !== false;
}

/** @throws {ManifestError} MANIFEST_OWNER if another user could have written it */
async function refuseForeign(path: string): Promise<void> {
  const found = await statMaybe(path);
  if (found === undefined) return;
  const { uid, mode } = found;
  const own = uid === 0 || uid === process.geteuid?.();
  if (own && (mode & 0o022) === 0) return;
  const why = own ? 'its mode lets others write to it' : `it belongs to uid ${uid}`;
  throw new ManifestError(
    'MANIFEST_OWNER',
    `the manifest ${path} could have been written by another user: ${why}`,
    {
      hint: `if what it says is right, chown root:root ${shellQuote(path)} and chmod 600 ${shellQuote(path)}`,
    },
  );
}

async function entriesOf(directory: string) {
  return await readdir(directory, { withFileTypes: true }).catch((cause: unknown) => {
    if (['ENOENT', 'ENOTDIR'].includes(errnoCode(cause) ?? '')) return [];
    throw new EnvironmentError('DIRECTORY', `cannot read the directory ${directory}`, { cause });
  });
}

/** Tells whether something that is not a manifest has the place of one. */
async function isMemory(path: string): Promise<boolean> {
  if (path.endsWith(MEMORY_ENDING)) return true;
  return (await stat(path).catch(() => undefined))?.isFile() === true;
}
