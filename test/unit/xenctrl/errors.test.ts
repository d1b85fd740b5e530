import { expect, test } from 'vitest';
import { XenCallError } from '../../../src/xenctrl/errors.ts';

test('a failed call names the function and the errno', () => {
  const error = new XenCallError('xc_domain_pause', 3, { domid: 9 });
  expect(error.message).toBe('xc_domain_pause: ESRCH');
  expect(error).toMatchObject({ exitCode: 7, domid: 9, data: { call: 'xc_domain_pause', errno: 'ESRCH' } });
  expect(error.hint).toContain('xl list');
});
