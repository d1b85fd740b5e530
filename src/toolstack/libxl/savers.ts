/** Finds processes that save a domain. */
import { findProcess, pidsNamed, pidsOlderThan, type ReadOfProcess } from '../process/find.ts';

/** The helper's name in the kernel: fifteen characters. */
const HELPER = 'libxl-save-help';

/** A process that is to become a helper does so at once (libxl_save_callout.c: it forks, then executes). */
const SETTLED_SECONDS = 1;

/**
 * Finds the process that saves or migrates a domain for another program based on libxl (xl, libvirt). No lock
 * of libxl reveals that, but each save has a process of its own: `libxl-save-helper --save-domain IO-FD
 * RECV-FD DOMID …` (tools/libs/light/libxl_save_callout.c: run_helper).
 */
export class SaverSearch {
  readonly #proc: string;
  /** Processes that were no helpers when all were looked at, and were too old to become one. */
  #settled: ReadonlySet<string> = new Set();

  constructor(proc = '/proc') {
    this.#proc = proc;
  }

  /**
   * Looks for it.
   * @param options `onlyNew`: leaves out those that the last search without it has seen, which was a moment ago: ten
   * times as quick
   * @returns its pid, or `undefined` if nobody saves the domain
   */
  async find(
    domid: number,
    { onlyNew = false }: { readonly onlyNew?: boolean | undefined } = {},
  ): Promise<number | undefined> {
    const old = onlyNew ? [] : pidsOlderThan(SETTLED_SECONDS, this.#proc);
    const helpers = pidsNamed(HELPER, this.#proc, onlyNew ? this.#settled : undefined);
    if (!onlyNew) this.#settled = new Set(old.filter((pid) => !helpers.includes(pid)));
    const isSaver = async (read: ReadOfProcess): Promise<boolean> => {
      const [, mode, , , of] = (await read('cmdline')).split('\0');
      return mode === '--save-domain' && of === String(domid);
    };
    return await findProcess(this.#proc, isSaver, helpers);
  }
}
