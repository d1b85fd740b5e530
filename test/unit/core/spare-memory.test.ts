import { expect, it } from 'vitest';
import { spareMemory } from '../../../src/core/spare-memory.ts';

const MIB = 2 ** 20;

function meminfo(mib: Record<string, number>): string {
  const lines = Object.entries(mib).map(([key, value]) => `${`${key}:`.padEnd(16)}${value * 1024} kB`);
  return `${lines.join('\n')}\nHugePages_Total:       0\n`;
}

it.each([
  ['a small dom0', { MemTotal: 1024, MemAvailable: 600, Dirty: 0, Writeback: 0 }, 600 - 256],
  ['a large dom0', { MemTotal: 65_536, MemAvailable: 60_000, Dirty: 0, Writeback: 0 }, 60_000 - 8192],
  [
    'with files to be written',
    { MemTotal: 1024, MemAvailable: 600, Dirty: 100, Writeback: 50 },
    600 - 150 - 256,
  ],
  ['with nothing to spare', { MemTotal: 1024, MemAvailable: 100, Dirty: 90, Writeback: 0 }, 16],
  ['that tells nothing', {}, 16],
])('%s', (_, mib, expected) => {
  expect(spareMemory(meminfo(mib), Number.POSITIVE_INFINITY)).toBe(expected * MIB);
});

it('is known for this host', () => {
  expect(spareMemory()).toBeGreaterThanOrEqual(16 * MIB);
});
