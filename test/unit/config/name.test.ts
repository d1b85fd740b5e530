import { expect, test } from 'vitest';
import { checkSnapshotName } from '../../../src/config/name.ts';

test.each(['a', '20261123-211530', 'before upgrade', 'é'.repeat(100), '...', 'a-', '.x', '1.0'])(
  'good: %s',
  (name) => {
    expect(checkSnapshotName(name)).toBeUndefined();
  },
);

test.each([
  ['', /empty/],
  ['.', /directory/],
  ['..', /directory/],
  ['a/b', /slash/],
  ['-x', /starts with "-"/],
  ['1', /only digits/],
  ['007', /only digits/],
  ['a\nb', /control/],
  ['a\u2028b', /control/],
  ['\x7f', /control/],
  ['a\0', /control/],
  ['\ud800', /Unicode/],
  ['é'.repeat(101), /202 bytes; the maximum is 200/],
])('bad: %j', (name, why) => {
  expect(checkSnapshotName(name)).toMatchObject({ code: 'BAD_NAME', message: expect.stringMatching(why) });
});
