/**
 * Messages on a xenstore connection: a header of four 32-bit words (type, request id, transaction id,
 * length), then the payload (xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt). The words are in the
 * host's byte order, which is little-endian wherever Xen runs.
 */
import { XenstoreProtocolError } from './errors.ts';

/** Length of a header in bytes. */
export const HEADER_LENGTH = 16;
/** Maximum length of a payload in either direction (XENSTORE_PAYLOAD_MAX). */
export const MAX_PAYLOAD = 4096;

/** The message types that are used here (enum xsd_sockmsg_type). */
export const MESSAGE = {
  directory: 1,
  read: 2,
  watch: 4,
  unwatch: 5,
  transactionStart: 6,
  transactionEnd: 7,
  write: 11,
  mkdir: 12,
  remove: 13,
  watchEvent: 15,
  error: 16,
  resume: 18,
  directoryPart: 22,
} as const;

export interface XenstoreMessage {
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  readonly payload: Uint8Array;
}

/** Encodes a message. The payload must not be longer than PAYLOAD_MAX. */
export function encodeMessage(message: XenstoreMessage): Uint8Array {
  const { type, requestId, transactionId, payload } = message;
  const bytes = new Uint8Array(HEADER_LENGTH + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, requestId, true);
  view.setUint32(8, transactionId, true);
  view.setUint32(12, payload.length, true);
  bytes.set(payload, HEADER_LENGTH);
  return bytes;
}

/** Splits what arrives into messages, however it is chunked. */
export class MessageSplitter {
  #rest: Uint8Array = new Uint8Array(0);

  /**
   * Yields the messages that `chunk` completes.
   * @throws {XenstoreProtocolError} If a header announces more than PAYLOAD_MAX bytes.
   */
  *push(chunk: Uint8Array): Generator<XenstoreMessage> {
    // At most one incomplete message is kept, so joining costs little.
    this.#rest = join(this.#rest, chunk);
    while (this.#rest.length >= HEADER_LENGTH) {
      const view = new DataView(this.#rest.buffer, this.#rest.byteOffset, HEADER_LENGTH);
      const length = view.getUint32(12, true);
      if (length > MAX_PAYLOAD) {
        throw new XenstoreProtocolError(
          `a message of type ${view.getUint32(0, true)} announces ${length} bytes, the limit is ${MAX_PAYLOAD}`,
        );
      }
      const end = HEADER_LENGTH + length;
      if (this.#rest.length < end) return;
      const payload = new Uint8Array(this.#rest.subarray(HEADER_LENGTH, end));
      this.#rest = this.#rest.subarray(end);
      yield {
        type: view.getUint32(0, true),
        requestId: view.getUint32(4, true),
        transactionId: view.getUint32(8, true),
        payload,
      };
    }
  }
}

/** Joins strings, each followed by NUL. */
export function joinStrings(...strings: readonly string[]): Uint8Array {
  return new TextEncoder().encode(strings.map((string) => `${string}\0`).join(''));
}

/** Splits what `joinStrings` joined; the last NUL may be missing. */
export function splitStrings(payload: Uint8Array): string[] {
  const strings = new TextDecoder().decode(payload).split('\0');
  if (strings.at(-1) === '') strings.pop();
  return strings;
}

/** Concatenates two arrays. */
export function join(first: Uint8Array, second: Uint8Array): Uint8Array {
  if (first.length === 0) return second;
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
