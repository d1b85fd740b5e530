import { expect, test } from 'vitest';
import { commandOf, parsePaths } from '../../../src/bench/paths.ts';
import type { Host } from '../../../src/snapshot/ports.ts';
import type { HostOptions } from '../../../src/toolstack/host.ts';
import { xlsnap } from './support.ts';

const closable = { async [Symbol.asyncDispose]() {} } as Partial<Host> as Host;

test.each([['snapshot-create guest1'], ['recover'], ['recover x.save']])(
  '%s opens the host for an unknown Xen only with --untested-xen',
  async (command) => {
    const seen: (HostOptions | undefined)[] = [];
    const world = {
      openHost: async (options?: HostOptions) => {
        seen.push(options);
        return closable;
      },
    };
    await xlsnap(command.split(' '), world);
    await xlsnap([...command.split(' '), '--untested-xen'], world);
    expect(seen).toEqual([{ untestedXen: false }, { untestedXen: true }]);
  },
);

test('so does doctor', async () => {
  const seen: (HostOptions | undefined)[] = [];
  const world = { onDoctor: (options?: HostOptions) => seen.push(options) };
  await xlsnap(['doctor'], world);
  await xlsnap(['doctor', '--untested-xen'], world);
  expect(seen).toEqual([{ untestedXen: false }, { untestedXen: true }]);
});

test('bench hands it to the snapshots that it takes, and not to xl', () => {
  const files = { memory: '/m', config: '/c' };
  const [xl, paused] = parsePaths('xl-save,paused').map((path) =>
    commandOf(path, ['xlsnap'], 7, files, ['--untested-xen']),
  );
  expect(xl).not.toContain('--untested-xen');
  expect(paused).toContain('--untested-xen');
});
