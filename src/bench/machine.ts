/** Describes the machine that a bench runs on. */
import { readFile, realpath } from 'node:fs/promises';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { unescapeMount } from '../core/mount-escapes.ts';
import type { Machine } from './types.ts';

/** Collects what affects the figures: processor, memory, kernel, file system. */
export async function describeMachine(directory: string): Promise<Omit<Machine, 'loadBefore' | 'loadAfter'>> {
  const all = cpus();
  return {
    cpu: all[0]?.model.trim().replaceAll(/\s+/g, ' ') ?? 'unknown',
    cpus: all.length,
    memoryBytes: totalmem(),
    kernel: `Linux ${release()}`,
    fileSystem: await fileSystemOf(directory),
  };
}

/** Returns the load average of the last minute. */
export function load(): number {
  return loadavg()[0] ?? 0;
}

/** Returns the type of a directory's file system: `ext4`, `tmpfs`. */
async function fileSystemOf(directory: string): Promise<string> {
  const path = `${await realpath(directory)}/`;
  let found = { point: '', type: 'unknown' };
  for (const line of (await readFile('/proc/self/mounts', 'utf8')).split('\n')) {
    const [, escaped = '', type = ''] = line.split(' ');
    const point = unescapeMount(escaped);
    const below = path.startsWith(point.endsWith('/') ? point : `${point}/`);
    // Later mounts hide earlier ones.
    if (below && point.length >= found.point.length && point !== '') found = { point, type };
  }
  return found.type;
}
