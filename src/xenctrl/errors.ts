/** Errors of calls into Xen's libraries. */
import { getSystemErrorName } from 'node:util';
import { type ErrorDetails, EXIT, type ExitCode, XlsnapError } from '../core/errors.ts';

/** A call into a Xen library failed. */
export class XenCallError extends XlsnapError {
  override readonly exitCode: ExitCode = EXIT.xen;
  /** Name of the function. */
  readonly call: string;
  /** Name of the errno: `EPERM`, `ESRCH`, … */
  readonly errno: string;

  /**
   * Makes the error of a call.
   * @param errno positive number
   */
  constructor(call: string, errno: number, details: ErrorDetails = {}) {
    const name = errnoName(errno);
    super('XEN_CALL', `${call}: ${name}`, {
      hint: HINTS[name],
      ...details,
      data: { ...details.data, call, errno: name },
    });
    this.call = call;
    this.errno = name;
  }
}

const HINTS: Readonly<Record<string, string>> = {
  EACCES: 'run it as root in dom0, with the Xen libraries of the running Xen',
  EPERM: 'run it as root in dom0',
  ENOENT: 'run it in a dom0: /dev/xen/privcmd must exist',
  ESRCH: 'the domain no longer exists: see `xl list`',
};

/** Returns the name of an errno: `ENOENT` for 2. */
export function errnoName(errno: number): string {
  return errno > 0 ? getSystemErrorName(-errno) : 'no errno';
}
