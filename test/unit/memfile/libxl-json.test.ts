import { describe, expect, it } from 'vitest';
import { parseLibxlJson, printLibxlJson } from '../../../src/memfile/libxl-json.ts';

describe("libxl's JSON", () => {
  it.each(['18446744073709551615', '-9223372036854775808', '9007199254740993', '128', '-1'])(
    'keeps the integer %s to its last digit',
    (integer) => {
      const text = printLibxlJson(parseLibxlJson(`{"b_info": {"max_memkb": ${integer}, "l": [${integer}]}}`));
      expect(text.match(/-?\d+/g)).toEqual([integer, integer]);
    },
  );

  it('keeps strings unchanged, even if they look like numbers or have quotes', () => {
    const value = { a: '18446744073709551615', b: 'x"18446744073709551615"', c: 'back\\slash 1e999', d: 1.5 };
    expect(parseLibxlJson(printLibxlJson(value))).toEqual(value);
  });

  it('refuses what is not JSON', () => {
    expect(() => parseLibxlJson('{"a": 1')).toThrow(SyntaxError);
  });

  it('is quick to notice that quotes are not closed', () => {
    // With n escaped quotes, each of which might begin a string, n² steps would take hours.
    expect(() => parseLibxlJson(`"${'\\"'.repeat(1_000_000)}`)).toThrow(SyntaxError);
  });

  it('accepts a string of 4 MiB, the longest configuration, and one of escapes', () => {
    for (const unit of ['a', '\\"']) {
      const text = JSON.stringify(JSON.parse(`["${unit.repeat(4_000_000 / unit.length)}"]`));
      expect(JSON.stringify(parseLibxlJson(text))).toBe(text);
    }
  });

  it('refuses strings that look like its own integers, and deep nesting', () => {
    expect(() => parseLibxlJson('["\\u0000integer:1"]')).toThrow(SyntaxError);
    expect(parseLibxlJson('["\\\\u0000integer:1"]')).toEqual(['\\u0000integer:1']);
    expect(() => parseLibxlJson('['.repeat(513) + ']'.repeat(513))).toThrow('nested more than 512 deep');
    expect(() => parseLibxlJson(`${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`)).toThrow(SyntaxError);
    expect(parseLibxlJson(`"${'[{'.repeat(1000)}"`)).toBe('[{'.repeat(1000));
  });

  it('keeps a number that JavaScript cannot represent', () => {
    expect(printLibxlJson(parseLibxlJson('[1e999]')).replace(/\s/g, '')).toBe('[1e999]');
  });
});
