import { findProcess } from '../process/find.ts';

/** Its name in the kernel: fifteen characters. */
const HELPER = 'libxl-save-help';

/**
 * The process that saves or migrates a domain for another program by libxl (xl, libvirt). No lock of libxl's tells of it,
 * but each save has a process of its own: `libxl-save-helper --save-domain IO-FD RECV-FD DOMID …`
 * (tools/libs/light/libxl_save_callout.c: run_helper).
 * @returns its pid; `undefined` when nobody saves it
 */
export function findSaver(domid: number, proc = '/proc'): Promise<number | undefined> {
  return findProcess(proc, async (read) => {
    if ((await read('comm')).trim() !== HELPER) return false;
    const [, mode, , , of] = (await read('cmdline')).split('\0');
    return mode === '--save-domain' && of === String(domid);
  });
}
