/** Finds processes that save a domain. */
import { findProcess } from '../process/find.ts';

/** The helper's name in the kernel: fifteen characters. */
const HELPER = 'libxl-save-help';

/**
 * Finds the process that saves or migrates a domain for another program based on libxl (xl, libvirt). No lock
 * of libxl reveals that, but each save has a process of its own: `libxl-save-helper --save-domain IO-FD
 * RECV-FD DOMID …` (tools/libs/light/libxl_save_callout.c: run_helper).
 * @returns its pid, or `undefined` if nobody saves the domain
 */
export function findSaver(domid: number, proc = '/proc'): Promise<number | undefined> {
  return findProcess(proc, async (read) => {
    if ((await read('comm')).trim() !== HELPER) return false;
    const [, mode, , , of] = (await read('cmdline')).split('\0');
    return mode === '--save-domain' && of === String(domid);
  });
}
