import { expect, it } from 'vitest';
import { dirtyRoom } from '../../../src/core/dirty-room.ts';

function vmstat(pages: Record<string, number>): string {
  return `nr_free_pages 1\n${Object.entries(pages)
    .map(([key, value]) => `${key} ${value}\n`)
    .join('')}`;
}

it.each([
  ['nothing to be written', { nr_dirty: 0, nr_writeback: 0 }, 1500],
  ['some to be written', { nr_dirty: 100, nr_writeback: 50 }, 1350],
  ['writers waiting already', { nr_dirty: 1400, nr_writeback: 200 }, 0],
])('%s', (_, pages, expected) => {
  const limits = { nr_dirty_threshold: 2000, nr_dirty_background_threshold: 1000 };
  expect(dirtyRoom(vmstat({ ...pages, ...limits }))).toBe(expected * 4096);
});

it('a kernel that does not say it has no room', () => {
  expect(dirtyRoom('')).toBe(0);
});

it('is known for this host', () => {
  expect(dirtyRoom()).toBeGreaterThanOrEqual(0);
});
