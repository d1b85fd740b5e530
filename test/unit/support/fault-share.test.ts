import { expect, it } from 'vitest';
import { faultShare, shareOf } from '../../support/fault-share.ts';

const items = Array.from({ length: 23 }, (_, at) => at);

it('five runs at the latest plant every fault', () => {
  const parts = [0, 0.2, 0.4, 0.6, 0.8].map((random) => faultShare(undefined, () => random));
  expect(parts.flatMap((part) => shareOf(items, part)).sort((a, b) => a - b)).toEqual(items);
});

it('the printed part repeats a run, and all plants all', () => {
  expect(faultShare('3/5')).toEqual(faultShare('', () => 0.5));
  expect(shareOf(items, faultShare('all'))).toEqual(items);
});

it('few faults are all planted', () => {
  expect(shareOf([1, 2, 3], faultShare('5/5'))).toEqual([1, 2, 3]);
});

it.each(['some', '0/5', '6/5', '1/'])('XLSNAP_FAULTS=%s is refused', (setting) => {
  expect(() => faultShare(setting)).toThrow(/expected all, or a part such as 3\/5/);
});
