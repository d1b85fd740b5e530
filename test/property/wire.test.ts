import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { QmpProtocolError } from '../../src/qmp/errors.ts';
import { classify } from '../../src/qmp/messages.ts';
import { formatLine, LineSplitter, parseLine } from '../../src/qmp/wire.ts';
import { XenstoreProtocolError } from '../../src/xenstore/errors.ts';
import { encodeMessage, joinStrings, MessageSplitter, splitStrings } from '../../src/xenstore/wire.ts';

/** Splits `bytes` at these fractions of their length. */
function chop(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const places = [
    0,
    ...cuts.map((cut) => Math.floor(cut * bytes.length)).sort((a, b) => a - b),
    bytes.length,
  ];
  return places.slice(1).map((end, i) => bytes.subarray(places[i], end));
}
const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 });
const word = fc.nat({ max: 0xffff_ffff });

describe('QMP lines', () => {
  test('are each subject to the limit alone', () => {
    const splitter = new LineSplitter(8);
    const lines = new TextEncoder().encode('1234567\n12345678\n\n1234567\n');
    expect([...splitter.push(lines)]).toEqual(['1234567', '12345678', '', '1234567']);
  });

  test.prop([fc.array(fc.dictionary(fc.string(), fc.jsonValue()), { maxLength: 6 }), cuts])(
    'survive any chunking',
    (messages, where) => {
      const bytes = new TextEncoder().encode(messages.map(formatLine).join(''));
      const splitter = new LineSplitter();
      const got = chop(bytes, where).flatMap((chunk) => [...splitter.push(chunk)].map(parseLine));
      expect(JSON.stringify(got)).toBe(JSON.stringify(messages));
    },
  );

  test.prop([fc.nat({ max: 64 }), cuts])('are refused exactly above the limit', (length, where) => {
    const splitter = new LineSplitter(32);
    const line = new Uint8Array(length + 1).fill(0x61);
    line[length] = 10;
    const read = (): string[] => chop(line, where).flatMap((chunk) => [...splitter.push(chunk)]);
    if (length > 32) expect(read).toThrow(QmpProtocolError);
    else expect(read()).toEqual(['a'.repeat(length)]);
  });

  test.prop([
    fc.dictionary(fc.constantFrom('QMP', 'return', 'error', 'event', 'id', 'data'), fc.jsonValue()),
  ])('of any JSON are a message or a typed error', (value) => {
    try {
      expect(['greeting', 'return', 'error', 'event']).toContain(classify(value).kind);
    } catch (error) {
      expect(error).toBeInstanceOf(QmpProtocolError);
    }
  });
});

describe('xenstore messages', () => {
  const message = fc.record({
    type: word,
    requestId: word,
    transactionId: word,
    payload: fc.uint8Array({ maxLength: 4096 }),
  });

  test.prop([fc.array(message, { maxLength: 6 }), cuts])('survive any chunking', (messages, where) => {
    const parts = messages.map(encodeMessage);
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    const splitter = new MessageSplitter();
    expect(chop(bytes, where).flatMap((chunk) => [...splitter.push(chunk)])).toEqual(messages);
  });

  test.prop([fc.uint8Array({ maxLength: 200 })])('of any bytes are messages or a typed error', (bytes) => {
    try {
      for (const { payload } of new MessageSplitter().push(bytes))
        expect(payload.length).toBeLessThanOrEqual(4096);
    } catch (error) {
      expect(error).toBeInstanceOf(XenstoreProtocolError);
    }
  });

  test.prop([fc.array(fc.string({ unit: 'grapheme' }).filter((s) => !s.includes('\0')))])(
    'keep lists of strings',
    (strings) => {
      expect(splitStrings(joinStrings(...strings))).toEqual(strings);
    },
  );
});
