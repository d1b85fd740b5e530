/** Finds processes that restore a domain. */
import { basename } from 'node:path';
import { findProcess } from '../process/find.ts';

/**
 * Finds an xl that restores a memory file for a revert: it continues if its xlsnap was killed. So does xl's
 * monitor, which has the same command line, as long as the domain lives.
 * @param uuid of the domain in the file; a FIFO used instead of the file is named after it
 * @returns its pid, or `undefined` if there is none
 */
export function findRestorer(memoryPath: string, uuid: string, proc = '/proc'): Promise<number | undefined> {
  return findProcess(proc, async (read) => {
    const [program = '', verb, ...args] = (await read('cmdline')).split('\0');
    if (basename(program) !== 'xl' || verb !== 'restore') return false;
    return args.some((arg) => arg === memoryPath || basename(arg) === fifoName(uuid));
  });
}

/** Returns the name of the FIFO through which the domain with that uuid is restored. */
export function fifoName(uuid: string): string {
  return `memory-${uuid}`;
}
