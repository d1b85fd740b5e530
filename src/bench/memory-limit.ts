/** A control group that limits the memory of a command, the page cache that it uses included (cgroups(7)). */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, EnvironmentError, errnoCode } from '../core/errors.ts';

/** How long the processes of an ended command are waited for. */
const EMPTY_MS = 5000;
const POLL_MS = 50;

/** A control group for one command. Its directory is removed at the end. */
export class MemoryLimit implements AsyncDisposable {
  /** Its directory; a process joins it when its pid is written to `cgroup.procs` there. */
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  /**
   * Makes the group, of version 2 of control groups or 1, whichever has the memory controller.
   * @param root for tests
   * @throws {EnvironmentError} If this machine has no such controller, or it does not allow that.
   */
  static async make(bytes: number, root = '/'): Promise<MemoryLimit> {
    const group = `xlsnap-bench-${process.pid}`;
    const v1 = join(root, 'sys/fs/cgroup/memory');
    const v2 = join(root, 'sys/fs/cgroup');
    try {
      if (existsSync(v1)) return await MemoryLimit.#make(join(v1, group), 'memory.limit_in_bytes', bytes);
      const controllers = await readFile(join(v2, 'cgroup.controllers'), 'utf8');
      if (!controllers.split(/\s/).includes('memory')) throw new Error('there is no memory controller');
      await writeFile(join(v2, 'cgroup.subtree_control'), '+memory');
      return await MemoryLimit.#make(join(v2, group), 'memory.max', bytes);
    } catch (cause) {
      throw new EnvironmentError('CGROUP', `cannot limit the memory of a command: ${describeError(cause)}`, {
        cause,
        hint: 'omit memory= from --paths, or boot a kernel with the memory controller of control groups',
      });
    }
  }

  static async #make(directory: string, file: string, bytes: number): Promise<MemoryLimit> {
    await mkdir(directory);
    const limit = new MemoryLimit(directory);
    try {
      await writeFile(join(directory, file), String(bytes));
      return limit;
    } catch (error) {
      await limit[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Removes the group, once the last of its processes has ended; a guardian ends shortly after its command. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (let waited = 0; ; waited += POLL_MS) {
      try {
        await rmdir(this.directory);
        return;
      } catch (error) {
        const code = errnoCode(error);
        if (code === 'ENOENT') return;
        // An empty group that is left does no harm.
        if (code !== 'EBUSY' || waited >= EMPTY_MS) return;
        await sleep(POLL_MS);
      }
    }
  }
}
