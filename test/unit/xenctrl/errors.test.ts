import { expect, test } from 'vitest';
import { untestedXen, XenCallError } from '../../../src/xenctrl/errors.ts';

test('a failed call names the function and the errno', () => {
  const error = new XenCallError('xc_domain_pause', 3, { domid: 9 });
  expect(error.message).toBe('xc_domain_pause: ESRCH');
  expect(error).toMatchObject({ exitCode: 7, domid: 9, data: { call: 'xc_domain_pause', errno: 'ESRCH' } });
  expect(error.hint).toContain('xl list');
});

test('an untested Xen is reported together with the tested ones', () => {
  expect(untestedXen('Xen 4.19 runs').message).toBe('Xen 4.19 runs; tested with Xen 4.20 and 4.17');
  expect(untestedXen('Xen 4.19 runs').exitCode).toBe(13);
});
