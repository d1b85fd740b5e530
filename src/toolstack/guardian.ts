import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Guardian } from '../snapshot/ports.ts';

/**
 * Waits for a word on its standard input. One that ends without it, since whoever holds the other end is gone, starts the
 * program that it was given. A shell, for it costs a millisecond where another node would cost fifty; nothing of its
 * text comes from outside.
 */
const WATCHER = 'read -r word; [ "$word" = done ] || exec "$@"';

const SHELL = '/bin/sh';

/**
 * Has a process of its own session and without any of our files wait for our end.
 * @param program what it runs then, and its arguments; for tests
 * @throws when no process can be started
 */
export function startGuardian(
  journalPath: string,
  program: readonly string[] = [process.execPath, guardianScript()],
): Guardian {
  const child = spawn(SHELL, ['-c', WATCHER, 'xlsnap-guardian', ...program, journalPath], {
    cwd: '/',
    // Out of reach of a Ctrl-C, and of whoever waits for the end of a pipe.
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  // Neither it nor its end may stop or hold us.
  child.on('error', () => {});
  child.stdin.on('error', () => {});
  child.unref();
  return {
    dismiss() {
      child.stdin.end('done\n');
    },
  };
}

function guardianScript(): string {
  return fileURLToPath(new URL('./guardian-main.js', import.meta.url));
}
