/**
 * What can go wrong with QMP, by cause:
 *
 *     QmpError
 *       QmpConnectError    no socket, no permission, another client is connected
 *       QmpProtocolError   the peer does not speak QMP as specified; the session is over
 *       QmpCommandError    QEMU refused the command
 *       QmpTimeoutError    no answer or event in time
 *       QmpClosedError     the session ended, by either side, before the answer came
 */
import { type ErrorDetails, EXIT, type ExitCode, XlsnapError } from '../core/errors.ts';

/** Base of all errors of a QMP session. */
export abstract class QmpError extends XlsnapError {
  override readonly exitCode: ExitCode = EXIT.disk;
}

/** The session could not be opened. */
export class QmpConnectError extends QmpError {
  override readonly exitCode = EXIT.environment;
}

/** The peer sent something that is not QMP. */
export class QmpProtocolError extends QmpError {
  constructor(message: string, details: ErrorDetails = {}) {
    super('QMP_PROTOCOL', message, details);
  }
}

/** QEMU refused a command. */
export class QmpCommandError extends QmpError {
  /** QEMU's error class: `GenericError`, `CommandNotFound`, `DeviceNotFound`, … */
  readonly errorClass: string;
  /** QEMU's description of the error. */
  readonly description: string;
  /** The command as sent. */
  readonly command: string;
  readonly arguments: Readonly<Record<string, unknown>> | undefined;

  constructor(
    errorClass: string,
    description: string,
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
  ) {
    super('QMP_COMMAND', `QEMU refused ${command}: ${description}`, {
      data: { command, class: errorClass, description, arguments: args },
    });
    this.errorClass = errorClass;
    this.description = description;
    this.command = command;
    this.arguments = args;
  }
}

/** No answer or event came in time. QEMU may still carry out the command. */
export class QmpTimeoutError extends QmpError {
  constructor(message: string, details: ErrorDetails = {}) {
    super('QMP_TIMEOUT', message, details);
  }
}

/** The session is closed. */
export class QmpClosedError extends QmpError {
  constructor(message: string, details: ErrorDetails = {}) {
    super('QMP_CLOSED', message, details);
  }
}
