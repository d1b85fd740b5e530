import koffi from 'koffi';
import { expect, test } from 'vitest';
import * as declarations from '../../../src/xenctrl/declarations.ts';
import { bind } from '../../../src/xenctrl/native.ts';

const C = { soname: '', headers: [] };
const library = bind(koffi, {
  ...C,
  functions: {
    lseek: declarations.LIBC.functions.lseek,
    fclose: declarations.LIBC.functions.fclose,
    fopen: declarations.LIBC.functions.fopen,
  },
});

test('errno is that of the call, among many at once', async () => {
  const EBADF = 9;
  const EINVAL = 22;
  const calls = Array.from({ length: 100 }, (_, i) =>
    i % 2 === 0 ? library.lseek.call(-1, 0, 0) : library.lseek.call(1, 0, 99),
  );
  const errnos = (await Promise.all(calls)).map(({ value, errno }) => [Number(value), errno]);
  expect(errnos).toEqual(errnos.map((_, i) => [-1, i % 2 === 0 ? EBADF : EINVAL]));
});

test('pointers are bigint, NULL is 0n', () => {
  const file = library.fopen.callHere('/dev/null', 'w').value;
  expect(typeof file).toBe('bigint');
  expect(library.fclose.callHere(file).value).toBe(0);
  expect(library.fopen.callHere('/nowhere/at/all', 'r')).toEqual({ value: 0n, errno: 2 });
});

test('a library or a function that is missing is an EnvironmentError', () => {
  const wanted = { result: 'int', parameters: [] };
  expect(() => bind(koffi, { ...C, soname: 'libnone.so.%', functions: { a: wanted } }, '4.99')).toThrow(
    /cannot load libnone\.so\.4\.99/,
  );
  expect(() => bind(koffi, { ...C, functions: { no_such_function: wanted } })).toThrow(/cannot load/);
});
