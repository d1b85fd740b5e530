/** Distinguishes and checks the four kinds of message that QEMU sends (docs/interop/qmp-spec). */
import { isRecord } from '../core/guards.ts';
import { QmpProtocolError } from './errors.ts';
import { excerpt } from './wire.ts';

/** QEMU's version, as in its greeting and `query-version`. */
export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** The distribution's version, such as `Debian 1:7.2+dfsg-7`; may be empty. */
  readonly package: string;
}

/** An event as QEMU sent it. */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** Seconds since 1970, with microseconds as the fraction; absent if QEMU could not read its clock. */
  readonly timestamp?: number;
}

export type QmpMessage =
  | { readonly kind: 'greeting'; readonly version: QemuVersion; readonly capabilities: readonly string[] }
  | { readonly kind: 'return'; readonly id: string; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: string; readonly errorClass: string; readonly description: string }
  | { readonly kind: 'event'; readonly event: QmpEvent };

/**
 * Returns which of the four kinds a message is, and its members.
 * @throws {QmpProtocolError} If it is none of them, or an answer without the id of a command. QEMU sends an
 * error without an id when it could not read what we sent, so the session is out of step.
 */
export function classify(message: Readonly<Record<string, unknown>>): QmpMessage {
  if ('QMP' in message) return greeting(message);
  if ('event' in message) return event(message);
  if ('error' in message) {
    const error = message['error'];
    if (!isRecord(error) || typeof error['class'] !== 'string' || typeof error['desc'] !== 'string') {
      throw malformed('error', message);
    }
    const { id } = message;
    if (typeof id !== 'string') {
      throw new QmpProtocolError(`QEMU could not read a command: ${error['desc']}`);
    }
    return { kind: 'error', id, errorClass: error['class'], description: error['desc'] };
  }
  if ('return' in message) {
    const { id } = message;
    if (typeof id !== 'string') throw malformed('answer', message);
    return { kind: 'return', id, value: message['return'] };
  }
  throw malformed('message', message);
}

/** Returns the members of `query-version`'s answer; undefined if the value is not such an answer. */
export function toVersion(value: unknown): QemuVersion | undefined {
  if (!isRecord(value) || !isRecord(value['qemu'])) return undefined;
  const { major, minor, micro } = value['qemu'];
  if (typeof major !== 'number' || typeof minor !== 'number' || typeof micro !== 'number') return undefined;
  const { package: pkg } = value;
  return { major, minor, micro, package: typeof pkg === 'string' ? pkg : '' };
}

function greeting(message: Readonly<Record<string, unknown>>): QmpMessage {
  const { QMP } = message;
  if (!isRecord(QMP)) throw malformed('greeting', message);
  const version = toVersion(QMP['version']);
  const { capabilities } = QMP;
  if (version === undefined || !Array.isArray(capabilities)) throw malformed('greeting', message);
  return {
    kind: 'greeting',
    version,
    capabilities: capabilities.filter((name): name is string => typeof name === 'string'),
  };
}

function event(message: Readonly<Record<string, unknown>>): QmpMessage {
  const { event: name, data = {}, timestamp } = message;
  if (typeof name !== 'string' || !isRecord(data)) throw malformed('event', message);
  return { kind: 'event', event: { event: name, data, ...time(timestamp) } };
}

function time(timestamp: unknown): { timestamp?: number } {
  if (!isRecord(timestamp)) return {};
  const { seconds, microseconds } = timestamp;
  // QEMU sends -1 for both when it cannot read its clock.
  if (typeof seconds !== 'number' || typeof microseconds !== 'number' || seconds < 0) return {};
  return { timestamp: seconds + microseconds / 1e6 };
}

function malformed(what: string, message: Readonly<Record<string, unknown>>): QmpProtocolError {
  return new QmpProtocolError(`QEMU sent a malformed ${what}: ${excerpt(JSON.stringify(message))}`);
}
