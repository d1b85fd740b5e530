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

  it('leaves strings alone, also those that look like numbers or hold quotes', () => {
    const value = { a: '18446744073709551615', b: 'x"18446744073709551615"', c: 'back\\slash 1e999', d: 1.5 };
    expect(parseLibxlJson(printLibxlJson(value))).toEqual(value);
  });

  it('refuses what is not JSON', () => {
    expect(() => parseLibxlJson('{"a": 1')).toThrow(SyntaxError);
  });

  it('takes no time to find that quotes are not closed', () => {
    // With n escaped quotes, each of which might begin a string, n² steps are hours.
    expect(() => parseLibxlJson(`"${'\\"'.repeat(1_000_000)}`)).toThrow(SyntaxError);
  });

  it('takes a string of 4 MiB, the longest configuration, of escapes too', () => {
    for (const unit of ['a', '\\"']) {
      const text = JSON.stringify(JSON.parse(`["${unit.repeat(4_000_000 / unit.length)}"]`));
      expect(JSON.stringify(parseLibxlJson(text))).toBe(text);
    }
  });

  it('refuses strings that would be taken for integers of its own, and what is nested too deep', () => {
    expect(() => parseLibxlJson('["\\u0000integer:1"]')).toThrow(SyntaxError);
    expect(parseLibxlJson('["\\\\u0000integer:1"]')).toEqual(['\\u0000integer:1']);
    expect(() => parseLibxlJson('['.repeat(513) + ']'.repeat(513))).toThrow('nested more than 512 deep');
    expect(() => parseLibxlJson(`${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`)).toThrow(SyntaxError);
    expect(parseLibxlJson(`"${'[{'.repeat(1000)}"`)).toBe('[{'.repeat(1000));
  });

  it('keeps a number that none of ours can be', () => {
    expect(printLibxlJson(parseLibxlJson('[1e999]')).replace(/\s/g, '')).toBe('[1e999]');
  });
});
