/**
 * The error tree. Each class says who is to blame and owns the exit code of the command line;
 * `code` is stable and meant for programs, `hint` says what to do next.
 */

import { omitUndefined } from './omit-undefined.ts';

/** Exit codes of the command line, one for each class of error. Documented in docs/scripting.md. */
export const EXIT = {
  ok: 0,
  bug: 1,
  usage: 2,
  config: 3,
  domain: 4,
  preflight: 5,
  suspend: 6,
  xen: 7,
  disk: 8,
  format: 9,
  risk: 10,
  restore: 11,
  output: 12,
  environment: 13,
  recover: 14,
  partial: 15,
  interrupted: 130,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** What an error may carry besides its message. */
export interface ErrorDetails {
  /** What to do next, one sentence. */
  readonly hint?: string | undefined;
  /** The phase of the operation in which it happened; filled in by the phase runner. */
  readonly phase?: string | undefined;
  readonly domid?: number | undefined;
  /** Offset in bytes from the start of the file or stream at fault. */
  readonly offset?: number | undefined;
  readonly cause?: unknown;
  /** Further plain data for programs. */
  readonly data?: Readonly<Record<string, unknown>> | undefined;
}

/** Base of all errors that xlsnap throws on purpose. Anything else that escapes is a bug. */
export abstract class XlsnapError extends Error {
  abstract readonly exitCode: ExitCode;
  readonly code: string;
  readonly hint: string | undefined;
  readonly domid: number | undefined;
  readonly offset: number | undefined;
  readonly data: Readonly<Record<string, unknown>>;
  /** Set once by the phase runner. */
  phase: string | undefined;
  /** What had been completed before this error, and stays. */
  done: readonly string[] = [];
  /** What the phase runner undid after this error, in order; empty when nothing had to be. */
  undone: readonly string[] = [];
  /** Undos that failed themselves, with what to do by hand. */
  undoFailures: readonly string[] = [];

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = details.hint;
    this.phase = details.phase;
    this.domid = details.domid;
    this.offset = details.offset;
    this.data = details.data ?? {};
  }

  /** The error as plain data, as `--json` prints it. */
  toJSON(): Record<string, unknown> {
    const { phase, domid, offset, hint, data, done, undone, undoFailures } = this;
    return omitUndefined({
      name: this.name,
      code: this.code,
      message: this.message,
      exit_code: this.exitCode,
      phase,
      domid,
      offset,
      hint,
      data: Object.keys(data).length === 0 ? undefined : data,
      done: done.length === 0 ? undefined : done,
      undone: undone.length === 0 ? undefined : undone,
      undo_failures: undoFailures.length === 0 ? undefined : undoFailures,
      cause: this.cause === undefined ? undefined : describeError(this.cause),
    });
  }
}

/** Wrong arguments on the command line or to a library call. */
export class UsageError extends XlsnapError {
  readonly exitCode = EXIT.usage;
}

/** A domain that is not there, or is in a state that cannot be snapshotted. */
export class DomainError extends XlsnapError {
  readonly exitCode = EXIT.domain;
}

/** Some of several things that are independent of each other were done, and others could not be. `done` says which. */
export class PartialError extends XlsnapError {
  readonly exitCode = EXIT.partial;
}

/** Something the preflight found; nothing had been touched. */
export class PreflightError extends XlsnapError {
  readonly exitCode = EXIT.preflight;
}

/** The guest did not suspend, or not in time. */
export class SuspendError extends XlsnapError {
  readonly exitCode = EXIT.suspend;
}

/** A disk image, QEMU or QMP refused. */
export class DiskError extends XlsnapError {
  readonly exitCode = EXIT.disk;
}

/** A revert that is possible but risky; `accept` or `force` in the request allows it. `data.risks` has the risks. */
export class RiskError extends XlsnapError {
  readonly exitCode = EXIT.risk;
}

/** The restore failed after the domain was destroyed. */
export class RestoreError extends XlsnapError {
  readonly exitCode = EXIT.restore;
}

/** Something of a killed create or revert could not be undone, or a killed delete not finished. */
export class RecoverError extends XlsnapError {
  readonly exitCode = EXIT.recover;
}

/** An output file cannot be made, written or renamed. */
export class OutputError extends XlsnapError {
  readonly exitCode = EXIT.output;
}

/** Something of the host is missing: a library, a socket, a program, a permission. */
export class EnvironmentError extends XlsnapError {
  readonly exitCode = EXIT.environment;
}

/** The caller's AbortSignal or a signal of the operating system ended the work. */
export class InterruptedError extends XlsnapError {
  readonly exitCode = EXIT.interrupted;
}

/** One line for any thrown value, with the chain of causes. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.message === '' ? error.name : error.message;
  if (error.cause === undefined) return own;
  const cause = describeError(error.cause);
  return own.includes(cause) ? own : `${own}: ${cause}`;
}

/** The errno name (`ENOENT`, …) of an error of Node's own calls, if it has one. */
export function errnoCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/**
 * Checks whether the work is to end.
 * @throws {InterruptedError} If the signal is aborted; its cause is the signal's reason
 */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw new InterruptedError('INTERRUPTED', 'interrupted', { cause: signal.reason });
  }
}
