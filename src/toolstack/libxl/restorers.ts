import { basename } from 'node:path';
import { findProcess } from '../process/find.ts';

/**
 * An xl that restores a memory file for a revert: one whose xlsnap was killed goes on. So does xl's monitor, which has the
 * same command line, as long as the domain lives.
 * @param uuid of the domain in the file: a FIFO that stands for the file is named after it
 * @returns its pid; `undefined` when there is none
 */
export function findRestorer(memoryPath: string, uuid: string, proc = '/proc'): Promise<number | undefined> {
  return findProcess(proc, async (read) => {
    const [program = '', verb, ...args] = (await read('cmdline')).split('\0');
    if (basename(program) !== 'xl' || verb !== 'restore') return false;
    return args.some((arg) => arg === memoryPath || basename(arg) === fifoName(uuid));
  });
}

/** Name of the FIFO by which a domain with that uuid is restored. */
export function fifoName(uuid: string): string {
  return `memory-${uuid}`;
}
