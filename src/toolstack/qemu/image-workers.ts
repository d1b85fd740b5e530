/** Finds processes that work on an image. */
import { basename } from 'node:path';
import { findProcess } from '../process/find.ts';

/**
 * Finds a qemu-img that was started on an image: it continues if its xlsnap was killed.
 * @param names what an image is called on qemu-img's command line
 * @returns its pid, or `undefined` if there is none
 */
export function findImageWorker(names: readonly string[], proc = '/proc'): Promise<number | undefined> {
  return findProcess(proc, async (read) => {
    const [program = '', ...args] = (await read('cmdline')).split('\0');
    return basename(program) === 'qemu-img' && args.some((arg) => names.includes(arg));
  });
}
