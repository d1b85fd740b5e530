import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ABIS } from '../../../src/xenctrl/abi.ts';
import { abiFor, missingLibraries, releaseOf, runningXen } from '../../../src/xenctrl/release.ts';
import { checkDom0 } from '../../../src/xenctrl/self-test.ts';
import type { DomainInfo } from '../../../src/xenctrl/xen-control.ts';
import { tempDir } from '../../support/temp.ts';

describe('the running Xen, as the kernel says it', () => {
  test('has three parts', async () => {
    await using directory = await tempDir();
    const version = join(directory.path, 'version');
    expect(await runningXen(version)).toBeUndefined();
    mkdirSync(version);
    for (const [name, text] of [
      ['major', '4\n'],
      ['minor', '22\n'],
      ['extra', '.1-pre\n'],
    ] as const) {
      writeFileSync(join(version, name), text);
    }
    expect(await runningXen(version)).toBe('4.22.1-pre');
  });

  test.each([
    ['4.22.1-pre', '4.22'],
    ['4.20', '4.20'],
    ['10.1-rc', '10.1'],
    ['xen', undefined],
    [undefined, undefined],
  ])('%s is release %s', (version, release) => {
    expect(releaseOf(version)).toBe(release);
  });
});

describe('the table for a release', () => {
  test('is that of a supported one', () => {
    for (const abi of ABIS) expect(abiFor(abi.release, false)).toBe(abi);
  });

  test.each(['4.16', '3.99'])(
    'does not exist for Xen %s, which is too old, whatever is allowed',
    (release) => {
      expect(() => abiFor(release, true)).toThrow(
        expect.objectContaining({
          code: 'XEN_UNSUPPORTED',
          exitCode: 13,
          hint: expect.stringContaining('4.22, 4.21, 4.20, 4.19, 4.18 and 4.17'),
        }),
      );
    },
  );

  test.each(['4.23', '4.100', '5.0'])('is refused for Xen %s, with the option that allows it', (release) => {
    expect(() => abiFor(release, false)).toThrow(
      expect.objectContaining({
        code: 'XEN_UNTESTED',
        message: `Xen ${release} runs, which is newer than the releases that xlsnap knows`,
        hint: expect.stringContaining('--untested-xen'),
      }),
    );
  });

  test('of a newer one has no raw domctls, and room for structs that have grown', () => {
    const abi = abiFor('4.23', true);
    expect(abi).toMatchObject({ release: '4.23', proof: 'none', domctlInterfaceVersion: undefined });
    expect(abi.domainInfo).toEqual({ ...ABIS[0]?.domainInfo, size: 4096 });
    expect(abi.hypercallBufferSize).toBe(4096);
    expect(abi.pvCalls.xen_sysctl_physinfo.size).toBe(4096);
  });
});

test('the error about missing libraries names those of the running Xen', () => {
  const error = missingLibraries('4.22', new Error('libxenguest.so.4.22: no such file'));
  expect(error.message).toBe('the libraries of the running Xen (4.22) cannot be used');
  expect(error.hint).toContain('libxenctrl.so.4.22');
  expect(error.hint).toContain('xen-utils-4.22');
});

const dom0: DomainInfo = {
  uuid: '00000000-0000-0000-0000-000000000000',
  hvm: false,
  paused: false,
  dying: false,
  shutdownReason: undefined,
  memoryBytes: 2 ** 30,
  sharedInfoFrame: 1n,
  maxVcpuId: 3,
};

test('the self-test takes an entry that can be that of dom0', () => {
  checkDom0(dom0);
  // xen-init-dom0 gives dom0 the uuid of /etc/xen/dom0-uuid.
  checkDom0({ ...dom0, uuid: '01234567-89ab-cdef-0123-456789abcdef', hvm: true });
});

test.each([
  [undefined, 'is missing'],
  [{ ...dom0, dying: true }, 'says that it has shut down'],
  [{ ...dom0, shutdownReason: 0 }, 'says that it has shut down'],
  [{ ...dom0, memoryBytes: 0 }, 'has 0 bytes of memory'],
  [{ ...dom0, memoryBytes: 2 ** 50 }, 'bytes of memory'],
  [{ ...dom0, maxVcpuId: 0x10000 }, 'has 65537 vCPUs'],
])('the self-test refuses the entry %# of dom0', (info, problem) => {
  expect(() => checkDom0(info)).toThrow(
    expect.objectContaining({ code: 'XEN_SELF_TEST', message: expect.stringContaining(problem) }),
  );
});
