/** Runs a command and measures its time, processor time and memory. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { EnvironmentError } from '../core/errors.ts';
import { endedChildrenTimes, peakResident, processTree } from './processes.ts';

/** How often memory is sampled. */
const SAMPLE_MS = 50;
/** Maximum output read back, in bytes. */
const MAX_OUTPUT = 16 * 1024 * 1024;

/** One measured run of a program. */
export interface CommandRun {
  /** Exit status; -1 if a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Start time, in milliseconds of `performance.now()`. */
  readonly startedMs: number;
  readonly wallSeconds: number;
  readonly userSeconds: number;
  readonly systemSeconds: number;
  readonly peakBytes: number;
}

export interface CommandOptions {
  /** Where the files with its output are created. */
  readonly directory: string;
  readonly signal?: AbortSignal | undefined;
  /** Whether SIGTERM makes it clean up and exit. If not, it is left to finish by itself. */
  readonly endsTidily: boolean;
  /** Directory of the control group that it joins. */
  readonly group?: string | undefined;
}

export type CommandRunner = (command: readonly string[], options: CommandOptions) => Promise<CommandRun>;

/**
 * Runs a program to its end and measures it: elapsed time from before the start of the process to its end; processor time
 * of the program and of the processes that it has waited for, in steps of 10 ms; the largest resident sets of the program
 * and its descendants, sampled every 50 ms. No other child of this process may end in the meantime.
 * @throws {EnvironmentError} If the program cannot be run.
 */
export const measureCommand: CommandRunner = async (command, { directory, signal, endsTidily, group }) => {
  const [program = '', ...args] = command;
  const place = await mkdtemp(join(directory, 'run-'));
  // Files, not pipes: if this process is killed, a SIGPIPE must not kill the command while the guest is stopped.
  await using stdout = await open(join(place, 'stdout'), 'w+');
  await using stderr = await open(join(place, 'stderr'), 'w+');
  try {
    const before = endedChildrenTimes();
    const startedMs = performance.now();
    const child = spawn(program, args, {
      stdio: ['ignore', stdout.fd, stderr.fd],
      env: { ...process.env, LC_ALL: 'C' },
      // In its own process group: a Ctrl-C is meant for us.
      detached: true,
    });
    const problem = group === undefined ? undefined : joinGroup(group, child.pid);
    const peaks = new Map<number, number>();
    const sample = (): void => {
      if (child.pid === undefined) return;
      for (const pid of processTree(child.pid)) {
        peaks.set(pid, Math.max(peaks.get(pid) ?? 0, peakResident(pid)));
      }
    };
    const sampler = setInterval(sample, SAMPLE_MS);
    const end = (): void => {
      if (endsTidily) child.kill('SIGTERM');
    };
    signal?.addEventListener('abort', end, { once: true });
    if (signal?.aborted) end();
    try {
      const [status] = (await once(child, 'exit')) as [number | null];
      if (problem !== undefined) throw problem;
      const wallSeconds = (performance.now() - startedMs) / 1000;
      const after = endedChildrenTimes();
      return {
        status: status ?? -1,
        stdout: await contentOf(stdout),
        stderr: await contentOf(stderr),
        startedMs,
        wallSeconds,
        userSeconds: after.user - before.user,
        systemSeconds: after.system - before.system,
        peakBytes: [...peaks.values()].reduce((sum, bytes) => sum + bytes, 0),
      };
    } finally {
      clearInterval(sampler);
      signal?.removeEventListener('abort', end);
    }
  } catch (cause) {
    throw new EnvironmentError('PROGRAM', `${program} did not run to completion`, { cause });
  } finally {
    await rm(place, { recursive: true, force: true });
  }
};

async function contentOf(file: FileHandle): Promise<string> {
  const { size } = await file.stat();
  const buffer = Buffer.alloc(Math.min(size, MAX_OUTPUT));
  const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
  return buffer.toString('utf8', 0, bytesRead);
}

/** Puts a process that has just started into a control group. A command that is not there must still be waited for. */
function joinGroup(group: string, pid: number | undefined): unknown {
  try {
    if (pid !== undefined) writeFileSync(join(group, 'cgroup.procs'), String(pid));
    return undefined;
  } catch (error) {
    return error;
  }
}
