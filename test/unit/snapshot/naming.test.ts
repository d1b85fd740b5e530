import { afterEach, describe, expect, it } from 'vitest';
import { nameFromTime } from '../../../src/snapshot/naming.ts';

const zone = process.env['TZ'];

afterEach(() => {
  if (zone === undefined) delete process.env['TZ'];
  else process.env['TZ'] = zone;
});

describe('nameFromTime', () => {
  it('is the local time', () => {
    process.env['TZ'] = 'Europe/Berlin';
    expect(nameFromTime(new Date('2026-11-23T20:15:30.999Z'))).toBe('20261123-211530');
  });

  it.each([
    ['Europe/Berlin', '2026-10-25T00:30:00.123Z', '20261025-023000', 60],
    // Its clocks go back by half an hour.
    ['Australia/Lord_Howe', '2026-04-04T14:45:00.000Z', '20260405-014500', 30],
  ])(
    'has another name in the hour that comes twice at the end of summer time: %s',
    (TZ, time, name, minutes) => {
      process.env['TZ'] = TZ;
      const first = new Date(time);
      expect(nameFromTime(first)).toBe(name);
      expect(nameFromTime(new Date(first.getTime() + minutes * 60_000))).toBe(`${name}-2`);
      expect(nameFromTime(new Date(first.getTime() + 2 * minutes * 60_000))).not.toMatch(/-2$/);
    },
  );

  it('is never the same twice in a year of hours', () => {
    process.env['TZ'] = 'Europe/Berlin';
    const names = Array.from({ length: 366 * 24 }, (_, hour) =>
      nameFromTime(new Date(Date.UTC(2026, 0, 1, hour, 30))),
    );
    expect(new Set(names).size).toBe(names.length);
  });
});
