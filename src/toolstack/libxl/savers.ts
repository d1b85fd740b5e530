/** Finds processes that save a domain. */
import { findProcess, pidsNamed, type ReadOfProcess } from '../process/find.ts';

/** The helper's name in the kernel: fifteen characters. */
const HELPER = 'libxl-save-help';

/**
 * Finds the process that saves or migrates a domain for another program based on libxl (xl, libvirt). No lock
 * of libxl reveals that, but each save has a process of its own: `libxl-save-helper --save-domain IO-FD
 * RECV-FD DOMID …` (tools/libs/light/libxl_save_callout.c: run_helper).
 * @returns its pid, or `undefined` if nobody saves the domain
 */
export async function findSaver(domid: number, proc = '/proc'): Promise<number | undefined> {
  const isSaver = async (read: ReadOfProcess): Promise<boolean> => {
    const [, mode, , , of] = (await read('cmdline')).split('\0');
    return mode === '--save-domain' && of === String(domid);
  };
  return await findProcess(proc, isSaver, pidsNamed(HELPER, proc));
}
