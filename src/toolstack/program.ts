import { execFile } from 'node:child_process';
import { EnvironmentError, errnoCode, throwIfAborted } from '../core/errors.ts';

export interface ProgramResult {
  /** Exit status; -1 when a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
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
  throwIfAborted(options.signal);
  return await new Promise((resolve, reject) => {
    execFile(
      program,
      [...args],
      {
        encoding: 'utf8',
        timeout: options.timeoutMs,
        // One that ignores SIGTERM would never let us go on; none of ours uses it to tidy up.
        killSignal: 'SIGKILL',
        maxBuffer: 64 * 1024 * 1024,
        env: { ...process.env, LC_ALL: 'C' },
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      },
      (error, stdout, stderr) => {
        try {
          throwIfAborted(options.signal);
          if (error === null) resolve({ status: 0, stdout, stderr });
          else if (errnoCode(error) === 'ENOENT') reject(missing(program, error));
          else if (typeof error.code === 'string') reject(notRun(program, error));
          else if (error.killed === true) reject(tooLong(program, args, options.timeoutMs));
          else resolve({ status: typeof error.code === 'number' ? error.code : -1, stdout, stderr });
        } catch (interrupted) {
          reject(interrupted);
        }
      },
    );
  });
}

function missing(program: string, cause: unknown): EnvironmentError {
  const from = PACKAGES[program];
  return new EnvironmentError('NO_PROGRAM', `there is no program ${program}`, {
    cause,
    ...(from === undefined ? {} : { hint: `apt-get install ${from}` }),
  });
}

function notRun(program: string, cause: unknown): EnvironmentError {
  return new EnvironmentError('PROGRAM', `${program} could not be run to its end`, { cause });
}

function tooLong(program: string, args: readonly string[], timeoutMs: number): EnvironmentError {
  const line = [program, ...args].join(' ');
  return new EnvironmentError('PROGRAM_TIMEOUT', `${line} did not end within ${timeoutMs / 1000} s`);
}
