import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';

/**
 * A qemu-img that has been started on an image: one whose xlsnap was killed goes on.
 * @param names what an image is called on its command line
 * @returns its pid; `undefined` when there is none
 */
export async function findImageWorker(names: readonly string[], proc = '/proc'): Promise<number | undefined> {
  for (const pid of await readdir(proc)) {
    if (!/^[0-9]+$/.test(pid)) continue;
    try {
      const [program = '', ...args] = (await readFile(join(proc, pid, 'cmdline'), 'utf8')).split('\0');
      if (basename(program) === 'qemu-img' && args.some((arg) => names.includes(arg))) return Number(pid);
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined;
}
