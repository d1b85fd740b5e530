import { expect, it } from 'vitest';
import { Fields } from '../../../src/core/fields.ts';
import { omitUndefined } from '../../../src/core/omit-undefined.ts';

const top = (value: unknown) => new Fields(value, (problem) => new RangeError(problem));

it('reads fields, objects and lists', () => {
  const fields = top({ name: 'a', count: 3, kind: 'x', inner: { list: [{ ms: 0.5 }] }, words: ['b'] });
  expect(fields.text('name')).toBe('a');
  expect(fields.count('count')).toBe(3);
  expect(fields.oneOf('kind', ['x', 'y'])).toBe('x');
  expect(fields.fields('inner').list('list')[0]?.number('ms')).toBe(0.5);
  expect(fields.texts('words')).toEqual(['b']);
  expect(fields.optional('none', (key) => fields.text(key))).toBeUndefined();
});

it.each([
  ['a string that is missing', (fields: Fields) => fields.text('none'), 'none is not a string'],
  ['a negative count', (fields: Fields) => fields.count('low'), 'low is not a count'],
  ['an unknown word', (fields: Fields) => fields.oneOf('kind', ['y', 'z']), 'kind is not one of y, z'],
  ['a list that is an object', (fields: Fields) => fields.list('inner'), 'inner is not a list'],
  [
    'a field of an object in a list',
    (fields: Fields) => fields.fields('inner').list('list')[1]?.text('name'),
    'inner.list[1].name is not a string',
  ],
  [
    'an optional field of another type',
    (fields: Fields) => fields.optional('low', (key) => fields.text(key)),
    'low is not a string',
  ],
])('says where it is: %s', (_, read, problem) => {
  const fields = top({ low: -1, kind: 'x', inner: { list: [{ name: 'a' }, {}] } });
  expect(() => read(fields)).toThrow(new RangeError(problem));
});

it('leaves out what is undefined', () => {
  expect(Object.keys(omitUndefined({ a: 1, b: undefined, c: null }))).toEqual(['a', 'c']);
});
