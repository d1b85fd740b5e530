/** Runs programs, identifies processes, and polls. */
import { type SpawnOptions, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, LabError, type LabErrorCode } from './errors.ts';

export interface Outcome {
  /** Exit code; 128 + n after signal n, as in a shell. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ExecOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly input?: string | Uint8Array | Readable;
  /** Receives stdout instead of the result's string. */
  readonly output?: Writable;
  /** Receives stdout and stderr as they come. */
  readonly onData?: (chunk: Buffer, stream: 'stdout' | 'stderr') => void;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

const signals: Readonly<Record<string, number>> = { SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 };

/** Runs a program to its end. Never throws because of its exit code. */
export async function exec(
  command: string,
  args: readonly string[],
  options: ExecOptions = {},
): Promise<Outcome> {
  const spawnOptions: SpawnOptions = { stdio: ['pipe', 'pipe', 'pipe'] };
  if (options.cwd !== undefined) spawnOptions.cwd = options.cwd;
  if (options.env !== undefined) spawnOptions.env = options.env;
  if (options.signal !== undefined) spawnOptions.signal = options.signal;
  const child = spawn(command, args, spawnOptions);
  const { stdin, stdout, stderr } = child;
  if (stdin === null || stdout === null || stderr === null) throw new Error('no pipes');
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  let timedOut = false;
  const timer =
    options.timeoutMs === undefined
      ? undefined
      : setTimeout(() => {
          timedOut = true;
          child.kill('SIGKILL');
        }, options.timeoutMs);
  stderr.on('data', (chunk: Buffer) => {
    err.push(chunk);
    options.onData?.(chunk, 'stderr');
  });
  const jobs: Promise<void>[] = [];
  if (options.output !== undefined) {
    jobs.push(pipeline(stdout, options.output));
  } else {
    stdout.on('data', (chunk: Buffer) => {
      out.push(chunk);
      options.onData?.(chunk, 'stdout');
    });
  }
  stdin.on('error', () => {
    // The program ended without reading all of its input; its exit code says more.
  });
  const { input } = options;
  if (input === undefined || typeof input === 'string' || input instanceof Uint8Array) stdin.end(input);
  else {
    jobs.push(
      pipeline(input, stdin).catch((error: unknown) => {
        if (errnoOf(error) !== 'EPIPE' && errnoOf(error) !== 'ERR_STREAM_PREMATURE_CLOSE') throw error;
      }),
    );
  }
  try {
    const code = await new Promise<number>((resolve, reject) => {
      child.once('error', (error) => {
        if (errnoOf(error) === 'ENOENT') reject(new LabError('host', `${command} is not installed`));
        else reject(error);
      });
      child.once('close', (status, signal) => resolve(status ?? 128 + (signals[signal ?? ''] ?? 0)));
    });
    await Promise.all(jobs);
    const result = {
      code,
      stdout: Buffer.concat(out).toString(),
      stderr: Buffer.concat(err).toString(),
    };
    if (timedOut) {
      throw new LabError(
        'timeout',
        `${command} did not exit within ${options.timeoutMs} ms\n${tail(result.stderr)}`,
      );
    }
    return result;
  } finally {
    if (timer !== undefined) clearTimeout(timer);
  }
}

/** Runs a program that must succeed, and returns its standard output. */
export async function must(
  code: LabErrorCode,
  command: string,
  args: readonly string[],
  options: ExecOptions = {},
): Promise<string> {
  const done = await exec(command, args, options);
  if (done.code !== 0) {
    const said = tail(`${done.stdout}\n${done.stderr}`);
    throw new LabError(
      code,
      `${[command, ...args].join(' ').slice(0, 300)}: exit code ${done.code}\n${said}`,
    );
  }
  return done.stdout;
}

export function tail(text: string, lines = 25): string {
  return text.trim().split('\n').slice(-lines).join('\n');
}

/** A process, distinguished from a later one with the same number by its start time. */
export interface ProcessId {
  readonly pid: number;
  readonly start: string;
}

/** Returns undefined if there is no such process, or it is a zombie. */
export function processId(pid: number): ProcessId | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const start = fields[19];
  return start === undefined || fields[0] === 'Z' ? undefined : { pid, start };
}

export function isAlive(id: ProcessId): boolean {
  return processId(id.pid)?.start === id.start;
}

export interface PollOptions {
  readonly timeoutMs: number;
  readonly everyMs?: number;
  readonly what: string;
}

/** Polls until there is an answer. */
export async function poll<T>(
  ask: () => Promise<T | undefined> | T | undefined,
  options: PollOptions,
): Promise<T> {
  const end = Date.now() + options.timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() >= end) {
      throw new LabError('timeout', `${options.what}: not within ${options.timeoutMs / 1000} s`);
    }
    await sleep(options.everyMs ?? 200);
  }
}

/** Quotes text for a POSIX shell. */
export function quote(text: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
