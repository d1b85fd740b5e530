import { basename } from 'node:path';
import { findProcess } from '../process/find.ts';

/**
 * A qemu-img that has been started on an image: one whose xlsnap was killed goes on.
 * @param names what an image is called on its command line
 * @returns its pid; `undefined` when there is none
 */
export function findImageWorker(names: readonly string[], proc = '/proc'): Promise<number | undefined> {
  return findProcess(proc, async (read) => {
    const [program = '', ...args] = (await read('cmdline')).split('\0');
    return basename(program) === 'qemu-img' && args.some((arg) => names.includes(arg));
  });
}
