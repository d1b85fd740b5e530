/** Files of the package while it is made. */
import { chmodSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { gzipSync } from 'node:zlib';

/** Writes a file, with the directories above it. */
export function put(path: string, content: string | Uint8Array, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  chmodSync(path, mode);
}

/** Returns the paths of all files below the directory, relative to it and sorted, without links. */
export function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .sort();
}

/** Compresses as Debian's policy asks (12.7): best, and without a time. */
export function gzip(content: string | Uint8Array): Uint8Array {
  return gzipSync(content, { level: 9 });
}
