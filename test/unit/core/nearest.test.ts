import { expect, test } from 'vitest';
import { nearest } from '../../../src/core/nearest.ts';

test.each([
  ['guest', ['guest1', 'web'], 'guest1'],
  ['gest1', ['web', 'guest1'], 'guest1'],
  ['GUEST-1', ['guest_1'], 'guest_1'],
  ['db', ['web', 'mail'], undefined],
  ['', ['ab'], undefined],
  ['x'.repeat(100_000), ['guest1'], undefined],
  ['guest1', [], undefined],
])('finds the word that was meant, case %#', (word, known, expected) => {
  expect(nearest(word, known)).toBe(expected);
});
