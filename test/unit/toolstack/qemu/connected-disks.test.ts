import { expect, test } from 'vitest';
import { findUnconnected } from '../../../../src/toolstack/qemu/connected-disks.ts';
import type { XenstoreAccess } from '../../../../src/xenstore/access.ts';

const BACKEND = '/local/domain/0/backend/qdisk/9/51744';

/** Simulates xenstore with one disk, xvdc, whose backend has these states, one for each time it is asked. */
function xenstore(states: readonly string[], fields: Record<string, string> = {}): XenstoreAccess {
  const nodes: Record<string, string> = {
    '/libxl/9/device/vbd/51744/backend': BACKEND,
    [`${BACKEND}/dev`]: 'xvdc',
    [`${BACKEND}/params`]: 'aio:/srv/cd.iso',
    ...fields,
  };
  let asked = 0;
  return {
    listMaybe: () => Promise.resolve(['51744']),
    readMaybe: (path: string) =>
      Promise.resolve(
        path === `${BACKEND}/state` ? states[Math.min(asked++, states.length - 1)] : nodes[path],
      ),
  } as unknown as XenstoreAccess;
}

test('a disk that nobody serves is found when the time is over', async () => {
  expect(await findUnconnected(9, xenstore(['1']), 0)).toEqual([{ vdev: 'xvdc', path: '/srv/cd.iso' }]);
});

test('a disk may take its time, and waits for its frontend while the domain is paused', async () => {
  expect(await findUnconnected(9, xenstore(['1', '1', '2']), 5000)).toEqual([]);
  expect(await findUnconnected(9, xenstore(['4']), 0)).toEqual([]);
});

test('an empty drive, and a disk that another domain serves, are not judged', async () => {
  expect(await findUnconnected(9, xenstore(['1'], { [`${BACKEND}/params`]: '' }), 0)).toEqual([]);
  const other = '/local/domain/3/backend/vbd/9/51744';
  const elsewhere = xenstore(['1'], {
    '/libxl/9/device/vbd/51744/backend': other,
    [`${other}/params`]: '/dev/x',
    [`${other}/state`]: '1',
  });
  expect(await findUnconnected(9, elsewhere, 0)).toEqual([]);
});
