/** Runs programs with limits on time and output. */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { EnvironmentError, errnoCode, throwIfAborted, XlsnapError } from '../../core/errors.ts';
import { isBounded, showProgress } from '../../core/signs-of-life.ts';
import { processActivity } from './find.ts';

export interface ProgramResult {
  /** Exit status; -1 if a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Maximum length in bytes of the error output of a program that is never killed; the rest is dropped. */
const MAX_WORDS = 64 * 1024;

/** Length in bytes of the end of a program's output that is looked at while it runs. */
const MAX_TAIL = 256;

/** Maximum length of output in characters. */
const MAX_OUTPUT = 64 * 1024 * 1024;

/** Directories of system programs: root's crontab and services often have a PATH without them. */
const SYSTEM_PATH = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/**
 * Returns the directories in which programs are looked for: those of PATH, then the system's own.
 * @returns the directories in order, joined by colons as in PATH
 */
export function searchPath(path: string | undefined = process.env['PATH']): string {
  // An empty entry would mean the current directory, where anyone may have put a program.
  const directories = (path ?? '/usr/local/bin:/usr/bin:/bin').split(':').filter((entry) => entry !== '');
  return [...new Set([...directories, ...SYSTEM_PATH])].join(':');
}

/** Debian packages of the programs that are called, for hints. */
const PACKAGES: Readonly<Record<string, string>> = {
  xl: 'xen-utils',
  'qemu-img': 'qemu-utils',
  lvs: 'lvm2',
};

/**
 * Runs a program, never through a shell, and waits for its end.
 * @throws {EnvironmentError} If there is no such program, it cannot be run, runs longer than `timeoutMs`, or
 * prints too much.
 * @throws {InterruptedError} If the signal aborted.
 */
export async function runProgram(
  program: string,
  args: readonly string[],
  options: { timeoutMs: number; signal?: AbortSignal | undefined; env?: NodeJS.ProcessEnv },
): Promise<ProgramResult> {
  const { timeoutMs, signal } = options;
  throwIfAborted(signal);
  const child = spawn(program, [...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...(options.env ?? process.env), PATH: searchPath(), LC_ALL: 'C' },
    // In its own process group: a Ctrl-C is meant for us, and must not end a program that puts a disk back.
    detached: true,
  });
  let why: 'too long' | 'too much' | undefined;
  // SIGKILL, since a program that ignores SIGTERM would block us forever; none of ours uses SIGTERM to clean
  // up.
  const end = (): void => {
    if (child.pid !== undefined && child.exitCode === null) killGroup(child.pid);
    // What it left in the background may hold them forever.
    child.stdout.destroy();
    child.stderr.destroy();
  };
  const timer = setTimeout(() => {
    why ??= 'too long';
    end();
  }, timeoutMs);
  signal?.addEventListener('abort', end, { once: true });
  const texts = [child.stdout, child.stderr].map((stream) => {
    const text = { all: '' };
    stream.setEncoding('utf8').on('data', (piece: string) => {
      text.all += piece;
      if (text.all.length <= MAX_OUTPUT) return;
      why ??= 'too much';
      end();
    });
    return text;
  });
  try {
    const [status] = (await once(child, 'close')) as [number | null];
    throwIfAborted(signal);
    if (why === 'too long') throw timeoutError(program, args, timeoutMs);
    if (why === 'too much')
      throw programError(program, new Error(`it printed more than ${MAX_OUTPUT} characters`));
    const [stdout = '', stderr = ''] = texts.map(({ all }) => all);
    return { status: status ?? -1, stdout, stderr };
  } catch (error) {
    if (error instanceof XlsnapError) throw error;
    throw errnoCode(error) === 'ENOENT' ? noProgramError(program, error) : programError(program, error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', end);
  }
}

/** The result of a program that is never killed. */
export type UnkilledResult =
  | { readonly ended: true; readonly status: number; readonly stderr: string }
  /** It is still running: the time was over, or the signal aborted and it did not end soon after. */
  | { readonly ended: false; readonly pid: number; readonly idle: boolean };

/** How long to wait for a program after an interruption, in milliseconds: less than a phase does. */
const AFTER_ABORT_MS = 60_000;
const POLL_MS = 500;

/**
 * Runs a program that changes something, and waits for its end. The program is never killed, since half of
 * its work would be worse than all of it; if it takes too long, it is only waited for no longer. Its output
 * goes to a file, so that it can continue without us.
 * @param options `timeoutMs`: no limit by default; `idleMs`: how long to wait while it neither reads, writes nor computes, no limit by
 * default; `abortMs`: how long to wait after an interruption; `onText` is called about
 * twice a second with the end of what it has printed; `env`: in place of our own environment
 * @throws {EnvironmentError} If there is no such program, or it cannot be run.
 * @throws {InterruptedError} If the signal aborted before.
 */
export async function runUnkilled(
  program: string,
  args: readonly string[],
  options: {
    timeoutMs?: number | undefined;
    idleMs?: number | undefined;
    signal?: AbortSignal | undefined;
    abortMs?: number | undefined;
    onText?: ((stdout: string) => void) | undefined;
    env?: NodeJS.ProcessEnv;
  } = {},
): Promise<UnkilledResult> {
  const { timeoutMs, idleMs = Number.POSITIVE_INFINITY, signal, abortMs = AFTER_ABORT_MS, onText } = options;
  const words = await openWords();
  const said = onText === undefined ? undefined : await openWords();
  try {
    // Not earlier: an interruption in the meantime would be missed.
    throwIfAborted(signal);
    const child = spawn(program, [...args], {
      stdio: ['ignore', said?.fd ?? 'ignore', words?.fd ?? 'ignore'],
      env: { ...(options.env ?? process.env), PATH: searchPath(), LC_ALL: 'C' },
      detached: true,
    });
    const ended = once(child, 'exit') as Promise<[number | null]>;
    ended.catch(() => {});
    let timer: NodeJS.Timeout | undefined;
    let onAbort = (): void => {};
    let idle = false;
    let watch: NodeJS.Timeout | undefined;
    const enough = new Promise<void>((resolve) => {
      watch = watchProgress(child.pid, idleMs, () => {
        idle = true;
        resolve();
      });
      if (timeoutMs !== undefined) timer = setTimeout(resolve, timeoutMs);
      onAbort = () => {
        clearTimeout(timer);
        timer = setTimeout(resolve, abortMs);
      };
      signal?.addEventListener('abort', onAbort, { once: true });
    });
    const listen = said && setInterval(() => void said.tail().then(onText, () => {}), POLL_MS);
    try {
      const outcome = await Promise.race([ended, enough]);
      if (outcome === undefined) {
        // It must not keep a process running that has nothing else to do.
        child.unref();
        return { ended: false, pid: child.pid ?? 0, idle };
      }
      return { ended: true, status: outcome[0] ?? -1, stderr: (await words?.read()) ?? '' };
    } catch (error) {
      throw errnoCode(error) === 'ENOENT' ? noProgramError(program, error) : programError(program, error);
    } finally {
      clearInterval(watch);
      clearInterval(listen);
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  } finally {
    await words?.close();
    await said?.close();
  }
}

/** A file without a name for a program's output. */
interface Words {
  readonly fd: number;
  /** Reads its beginning. */
  readonly read: () => Promise<string>;
  /** Reads its end. */
  readonly tail: () => Promise<string>;
  readonly close: () => Promise<void>;
}

/** Opens a file for a program's output; `undefined` if it cannot be created. */
async function openWords(): Promise<Words | undefined> {
  const path = join(tmpdir(), `xlsnap-${process.pid}-${randomUUID()}`);
  try {
    const file = await open(path, 'wx+', 0o600);
    await rm(path, { force: true });
    const textAt = async (from: number, length: number): Promise<string> => {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, from);
      return buffer.toString('utf8', 0, bytesRead);
    };
    return {
      fd: file.fd,
      read: () => textAt(0, MAX_WORDS),
      tail: async () => textAt(Math.max(0, (await file.stat()).size - MAX_TAIL), MAX_TAIL),
      close: () => file.close(),
    };
  } catch {
    return undefined;
  }
}

/**
 * Reports signs of life as long as a process reads, writes or computes.
 * @param onIdle is called if it has not for `idleMs`
 */
function watchProgress(
  pid: number | undefined,
  idleMs: number,
  onIdle: () => void,
): NodeJS.Timeout | undefined {
  if (pid === undefined || (!isBounded() && !Number.isFinite(idleMs))) return undefined;
  let before: string | undefined;
  let active = performance.now();
  return setInterval(() => {
    void processActivity(pid).then((now) => {
      if (before !== undefined && now !== undefined && now !== before) showProgress();
      // Where that cannot be read, nothing says that it is idle.
      if (now === undefined || before !== now) active = performance.now();
      else if (performance.now() - active >= idleMs) onIdle();
      before = now;
    });
  }, POLL_MS);
}

/** Kills the program and everything it has started. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if (errnoCode(error) !== 'ESRCH') throw error;
  }
}

function noProgramError(program: string, cause: unknown): EnvironmentError {
  const from = PACKAGES[basename(program)];
  const where = program.includes('/') ? '' : ` in ${searchPath()}`;
  return new EnvironmentError('NO_PROGRAM', `there is no program ${program}${where}`, {
    cause,
    hint: from === undefined ? undefined : `install it: on Debian it is in the package ${from}`,
  });
}

function programError(program: string, cause: unknown): EnvironmentError {
  return new EnvironmentError('PROGRAM', `${program} did not run to completion`, { cause });
}

function timeoutError(program: string, args: readonly string[], timeoutMs: number): EnvironmentError {
  const line = [program, ...args].join(' ');
  return new EnvironmentError('PROGRAM_TIMEOUT', `${line} did not exit within ${timeoutMs / 1000} s`);
}
