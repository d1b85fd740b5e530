/**
 * What can go wrong with xenstore:
 *
 *     XenstoreError
 *       XenstoreConnectError   no socket, no permission
 *       XenstoreProtocolError  the peer does not speak the protocol; the connection is over
 *       XenstoreRequestError   xenstored refused a request, with the name of an errno
 *       XenstoreTimeoutError   no answer or event in time
 *       XenstoreClosedError    the connection ended before the answer came
 */
import { type ErrorDetails, EXIT, type ExitCode, XlsnapError } from '../core/errors.ts';

/** Base of all errors of a xenstore connection. */
export abstract class XenstoreError extends XlsnapError {
  override readonly exitCode: ExitCode = EXIT.xen;
}

/** xenstored cannot be reached. */
export class XenstoreConnectError extends XenstoreError {
  override readonly exitCode: ExitCode = EXIT.environment;

  constructor(message: string, details: ErrorDetails = {}) {
    super('XENSTORE_CONNECT', message, details);
  }
}

/** The peer is not a xenstored. */
export class XenstoreProtocolError extends XenstoreError {
  constructor(message: string, details: ErrorDetails = {}) {
    super('XENSTORE_PROTOCOL', message, details);
  }
}

/** xenstored refused a request. */
export class XenstoreRequestError extends XenstoreError {
  /** Name of the errno: `ENOENT`, `EACCES`, `EAGAIN`, … (xs_wire.h, xsd_errors). */
  readonly errno: string;

  constructor(errno: string, operation: string, subject: string) {
    super('XENSTORE_REQUEST', `xenstore: ${operation} ${subject}: ${errno}`, {
      data: { errno, operation, subject },
    });
    this.errno = errno;
  }
}

/** No answer or event came in time. */
export class XenstoreTimeoutError extends XenstoreError {
  constructor(message: string, details: ErrorDetails = {}) {
    super('XENSTORE_TIMEOUT', message, details);
  }
}

/** The connection is closed. */
export class XenstoreClosedError extends XenstoreError {
  constructor(message: string, details: ErrorDetails = {}) {
    super('XENSTORE_CLOSED', message, details);
  }
}

/** Returns whether an error is a refusal by xenstored with this errno. */
export function isXenstoreErrno(error: unknown, errno: string): error is XenstoreRequestError {
  return error instanceof XenstoreRequestError && error.errno === errno;
}
