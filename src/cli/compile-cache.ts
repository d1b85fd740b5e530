/** Keeps what Node has compiled, so that the next command starts sooner: Node 22.8 and later can. */
import { lstatSync, mkdirSync } from 'node:fs';
import nodeModule from 'node:module';
import { dirname } from 'node:path';

/** On a disk, unlike /run: it should outlast a boot. FHS: data that can be made again. */
const CACHE_DIRECTORY = '/var/cache/xlsnap';

/** Node's own functions, which older releases lack. */
type CompileCache = { readonly enableCompileCache?: (directory: string) => unknown };

/**
 * Has Node load compiled code from the directory, and leave there what it compiles. What is there runs as root, so the
 * directory is used only if nobody else can write to it. Without it, nothing but time is lost.
 */
export function useCompileCache(
  directory: string = CACHE_DIRECTORY,
  { enableCompileCache }: CompileCache = nodeModule as CompileCache,
): void {
  if (enableCompileCache === undefined || process.geteuid?.() !== 0) return;
  try {
    if (isTrusted(directory)) enableCompileCache(directory);
  } catch {
    // A read-only or full file system, for example.
  }
}

/** Makes the directory if it is missing, and returns whether only root can use it, and only root can replace it. */
function isTrusted(directory: string): boolean {
  for (let above = dirname(directory); ; above = dirname(above)) {
    if (!isOfRoot(above, 0o022)) return false;
    if (above === dirname(above)) break;
  }
  if (lstatSync(directory, { throwIfNoEntry: false }) === undefined) mkdirSync(directory, { mode: 0o700 });
  return isOfRoot(directory, 0o077);
}

/** @param others bits of the mode that must not be set */
function isOfRoot(path: string, others: number): boolean {
  const { uid, mode } = lstatSync(path);
  return (mode & 0o170000) === 0o040000 && uid === 0 && (mode & others) === 0;
}
