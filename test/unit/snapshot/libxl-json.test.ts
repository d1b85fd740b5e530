import { describe, expect, it } from 'vitest';
import { parseLibxlJson, printLibxlJson } from '../../../src/snapshot/libxl-json.ts';

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
});
