import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Its name as the kernel has it: fifteen characters. */
const HELPER = 'libxl-save-help';

/**
 * The process that saves or migrates a domain for another program by libxl (xl, libvirt). No lock of libxl's tells of it,
 * but each save has a process of its own: `libxl-save-helper --save-domain IO-FD RECV-FD DOMID …`
 * (tools/libs/light/libxl_save_callout.c: run_helper).
 * @returns its pid; `undefined` when nobody saves it
 */
export async function findSaver(domid: number, proc = '/proc'): Promise<number | undefined> {
  for (const pid of await readdir(proc)) {
    if (!/^[0-9]+$/.test(pid)) continue;
    try {
      if ((await readFile(join(proc, pid, 'comm'), 'utf8')).trim() !== HELPER) continue;
      const [, mode, , , of] = (await readFile(join(proc, pid, 'cmdline'), 'utf8')).split('\0');
      if (mode === '--save-domain' && of === String(domid)) return Number(pid);
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined;
}
