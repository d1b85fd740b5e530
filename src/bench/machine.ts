import { readFile, realpath } from 'node:fs/promises';
import { cpus, loadavg, release, totalmem } from 'node:os';
import type { Machine } from './types.ts';

/** What of this machine bears on the figures. */
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

/** Mean number of processes that want to run, of the last minute. */
export function load(): number {
  return loadavg()[0] ?? 0;
}

/** Type of the file system that a directory lies on: `ext4`, `tmpfs`. */
async function fileSystemOf(directory: string): Promise<string> {
  const path = `${await realpath(directory)}/`;
  let found = { point: '', type: 'unknown' };
  for (const line of (await readFile('/proc/self/mounts', 'utf8')).split('\n')) {
    const [, escaped = '', type = ''] = line.split(' ');
    const point = escaped.replaceAll(/\\(\d{3})/g, (_, octal: string) =>
      String.fromCharCode(parseInt(octal, 8)),
    );
    const below = path.startsWith(point.endsWith('/') ? point : `${point}/`);
    // Later mounts hide earlier ones.
    if (below && point.length >= found.point.length && point !== '') found = { point, type };
  }
  return found.type;
}
