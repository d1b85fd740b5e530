import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { basename } from 'node:path';
import { EnvironmentError, errnoCode, throwIfAborted, XlsnapError } from '../../core/errors.ts';

export interface ProgramResult {
  /** Exit status; -1 when a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Characters of output. */
const MAX_OUTPUT = 64 * 1024 * 1024;

/** Where a system's own programs are: root's crontab and services often have a PATH without these. */
const SYSTEM_PATH = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/**
 * The directories in which programs are looked for: those of PATH, then the system's own.
 * @returns them in order, joined by colons, as PATH has them
 */
export function searchPath(path: string | undefined = process.env['PATH']): string {
  // An empty entry would mean the current directory, where anybody's program may be.
  const directories = (path ?? '/usr/local/bin:/usr/bin:/bin').split(':').filter((entry) => entry !== '');
  return [...new Set([...directories, ...SYSTEM_PATH])].join(':');
}

/** Debian packages of the programs we call, for hints. */
const PACKAGES: Readonly<Record<string, string>> = {
  xl: 'xen-utils',
  'qemu-img': 'qemu-utils',
};

/**
 * Runs a program, never through a shell, and waits for its end.
 * @throws EnvironmentError when there is no such program, it cannot be run, it runs longer than `timeoutMs`, or says
 * more than anybody needs
 * @throws InterruptedError when the signal is aborted
 */
export async function runProgram(
  program: string,
  args: readonly string[],
  options: { timeoutMs: number; signal?: AbortSignal },
): Promise<ProgramResult> {
  const { timeoutMs, signal } = options;
  throwIfAborted(signal);
  const child = spawn(program, [...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, PATH: searchPath(), LC_ALL: 'C' },
    // A group of its own: a Ctrl-C is for us, and must not end what puts a disk back.
    detached: true,
  });
  let why: 'too long' | 'too much' | undefined;
  // SIGKILL, since one that ignores SIGTERM would never let us go on; none of ours uses that to tidy up.
  const end = (): void => {
    if (child.pid !== undefined && child.exitCode === null) killGroup(child.pid);
    // What it left behind in the background may hold them for ever.
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
    if (why === 'too long') throw tooLong(program, args, timeoutMs);
    if (why === 'too much') throw notRun(program, new Error(`it said more than ${MAX_OUTPUT} characters`));
    const [stdout = '', stderr = ''] = texts.map(({ all }) => all);
    return { status: status ?? -1, stdout, stderr };
  } catch (error) {
    if (error instanceof XlsnapError) throw error;
    throw errnoCode(error) === 'ENOENT' ? missing(program, error) : notRun(program, error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', end);
  }
}

/** The program and what it has started. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if (errnoCode(error) !== 'ESRCH') throw error;
  }
}

function missing(program: string, cause: unknown): EnvironmentError {
  const from = PACKAGES[basename(program)];
  const where = program.includes('/') ? '' : ` in ${searchPath()}`;
  return new EnvironmentError('NO_PROGRAM', `there is no program ${program}${where}`, {
    cause,
    ...(from === undefined ? {} : { hint: `install it: on Debian it is in the package ${from}` }),
  });
}

function notRun(program: string, cause: unknown): EnvironmentError {
  return new EnvironmentError('PROGRAM', `${program} could not be run to its end`, { cause });
}

function tooLong(program: string, args: readonly string[], timeoutMs: number): EnvironmentError {
  const line = [program, ...args].join(' ');
  return new EnvironmentError('PROGRAM_TIMEOUT', `${line} did not end within ${timeoutMs / 1000} s`);
}
