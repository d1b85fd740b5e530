/** Starts the guardian: a process that undoes a create if this one is killed. */
import { spawn } from 'node:child_process';
import nodeModule from 'node:module';
import { setPriority } from 'node:os';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EnvironmentError } from '../core/errors.ts';
import type { Guardian } from '../snapshot/ports.ts';

/** A third of the processor time of others that want it too. */
const START_PRIORITY = 5;

/**
 * Starts a process, in a session of its own and without any of our files, that waits for our end. It is a
 * node that has loaded everything before it is needed: the guest must not wait for that, nor for memory when
 * that has run out.
 * @param program what is run; for tests
 * @throws {EnvironmentError} If no process can be started.
 */
export function startGuardian(
  program: readonly [string, ...string[]] = [process.execPath, guardianScript()],
): Guardian {
  const [command, ...args] = program;
  const child = spawn(command, args, {
    cwd: '/',
    // Out of reach of Ctrl-C, and of programs that wait for the end of our pipes.
    detached: true,
    env: { ...process.env, ...compileCache() },
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  // Neither the guardian nor its end may stop us or keep us running.
  child.on('error', () => {});
  child.stdin.on('error', () => {});
  child.unref();
  if (child.pid !== undefined) giveWay(child.pid);
  if (child.pid === undefined) {
    child.stdin.destroy();
    throw new EnvironmentError('GUARDIAN', `cannot start ${command}`, {
      hint: 'check the limit on processes and the free memory',
    });
  }
  return {
    watch(journalPath) {
      child.stdin.write(`${JSON.stringify(journalPath)}\n`);
    },
    dismiss() {
      child.stdin.end('done\n');
    },
  };
}

/** Has the guardian start behind us: a guest may be stopped while it does. It hurries when it is needed. */
function giveWay(pid: number): void {
  try {
    setPriority(pid, START_PRIORITY);
  } catch {
    // It has ended already, or we may not.
  }
}

/** Node's variable that has the guardian load its code from where this process does (Node 22.8 and later), if anywhere. */
function compileCache(): { readonly NODE_COMPILE_CACHE?: string } {
  const { getCompileCacheDir } = nodeModule as { readonly getCompileCacheDir?: () => string | undefined };
  const own = getCompileCacheDir?.();
  // That of this version of Node, below the one that is asked for.
  return own === undefined ? {} : { NODE_COMPILE_CACHE: dirname(own) };
}

function guardianScript(): string {
  return fileURLToPath(new URL('./guardian-main.js', import.meta.url));
}
