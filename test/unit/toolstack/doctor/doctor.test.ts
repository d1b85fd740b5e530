import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { EnvironmentError } from '../../../../src/core/errors.ts';
import { FakeHost } from '../../../../src/testing/fake-host.ts';
import { runDoctor } from '../../../../src/toolstack/doctor/doctor.ts';
import {
  asFailure,
  checkHost,
  isSupportedNode,
  judgeLibraries,
  judgeProof,
} from '../../../../src/toolstack/doctor/host-checks.ts';
import { runProgram } from '../../../../src/toolstack/process/run.ts';
import { fakeProgram } from '../../../support/fake-program.ts';
import { tempDir } from '../../../support/temp.ts';

// On any machine: nobody listens on xenstored's path, and xl and qemu-img are scripts.

let directory: Awaited<ReturnType<typeof tempDir>>;
let undo: (() => void)[] = [];

beforeEach(async () => {
  directory = await tempDir();
  const before = process.env['XENSTORED_PATH'];
  process.env['XENSTORED_PATH'] = `${directory.path}/nobody`;
  undo = [
    () => {
      if (before === undefined) delete process.env['XENSTORED_PATH'];
      else process.env['XENSTORED_PATH'] = before;
    },
    fakeProgram(directory.path, 'xl', "echo 'host : dom0'; echo 'xen_version            : 4.20.9'"),
    fakeProgram(directory.path, 'qemu-img', "echo 'qemu-img version 9.1.2 (Debian 1:9)'"),
  ];
});

afterEach(async () => {
  for (const one of undo.reverse()) one();
  await directory[Symbol.asyncDispose]();
});

const find = async (name: string) => (await checkHost()).find((check) => check.name === name);

describe('the checks of the host', () => {
  test('do not stop at one that fails', async () => {
    const checks = await checkHost();
    const status = Object.fromEntries(checks.map((check) => [check.name, check.status]));
    expect(status).toMatchObject({ node: 'ok', koffi: 'ok', xenstore: 'failed', xl: 'ok', 'qemu-img': 'ok' });
    expect(new Set(checks.map(({ name }) => name)).size).toBe(12);
    for (const check of checks) {
      expect(check.message, check.name).not.toBe('');
      if (check.status === 'failed') expect(check.hint, check.name).toBeTruthy();
    }
  });

  test('have the versions that the programs report', async () => {
    expect(await find('xl')).toMatchObject({ version: '4.20.9', message: `${directory.path}/bin/xl` });
    expect(await find('qemu-img')).toMatchObject({
      version: '9.1.2',
      message: `${directory.path}/bin/qemu-img`,
    });
    expect(await find('node')).toMatchObject({ version: process.versions.node });
    expect((await find('koffi'))?.version).toMatch(/^\d+\.\d+\.\d+$/);
  });

  test('report an xl that fails in its own words', async () => {
    undo.push(fakeProgram(directory.path, 'xl', "echo 'no hypervisor' >&2; exit 3"));
    expect(await find('xl')).toMatchObject({
      status: 'failed',
      message: 'xl info: exit code 3: no hypervisor',
    });
  });

  test('report a missing program, with what to install', async () => {
    // By path: where programs are looked for by name, this machine may have them.
    const find = async (name: string) =>
      asFailure(
        await runProgram(`${directory.path}/none/${name}`, [], { timeoutMs: 10_000 }).catch((e) => e),
      );
    expect(await find('xl')).toMatchObject({
      status: 'failed',
      hint: expect.stringMatching(/^install it: .* xen-utils$/),
    });
    expect(await find('qemu-img')).toMatchObject({
      status: 'failed',
      hint: expect.stringMatching(/^install it: .* qemu-utils$/),
    });
  });
});

describe('the report', () => {
  test('has a failed check, with its hint, if the host cannot be opened', async () => {
    const { ok, checks, domains } = await runDoctor(() => {
      throw new EnvironmentError('XEN_INTERFACE', 'no interface', { hint: 'be in dom0' });
    }, undefined);
    expect(ok).toBe(false);
    expect(domains).toEqual([]);
    expect(checks.at(-1)).toEqual({
      name: 'domains',
      status: 'failed',
      message: 'no interface',
      hint: 'be in dom0',
    });
    expect(checks.length).toBe(13);
  });

  test('has one domain although xenstore does not answer us', async () => {
    const host = new FakeHost({ directory: directory.path });
    const { domains } = await runDoctor(() => Promise.resolve(host), 'guest1');
    expect(domains).toMatchObject([{ domain: 'guest1', domid: 7, type: 'pvh', disks: [{ vdev: 'xvda' }] }]);
  });

  test('has a bug in the examination of one domain', async () => {
    const host = new FakeHost({ directory: directory.path });
    host.fault = (call) => {
      if (call === 'disks') throw new TypeError('surprise');
    };
    const { ok, domains } = await runDoctor(() => Promise.resolve(host), 'guest1');
    expect(ok).toBe(false);
    expect(domains).toMatchObject([
      { possible: false, obstacles: [{ code: 'UNKNOWN', message: 'surprise' }] },
    ]);
  });
});

test.each([
  ['20.14.0', false],
  ['20.15.0', true],
  ['19.9.0', false],
  ['21.7.3', true],
  ['22.1.0', true],
  ['22.2.0', true],
  ['24.0.0', true],
  ['18.17.1', false],
  ['18.18.0', true],
  ['18.20.4', true],
])('Node %s is supported: %s, as package.json says', (version, supported) => {
  expect(isSupportedNode(version)).toBe(supported);
});

describe('the libraries of Xen', () => {
  const found = { usable: ['4.22', '4.20'], installed: ['4.20', '4.22'], missing: [] };

  test('of the running release count', () => {
    expect(judgeLibraries(found, '4.22')).toMatchObject({ status: 'ok', version: '4.22' });
    expect(judgeLibraries(found, undefined)).toMatchObject({ status: 'ok', version: '4.22, 4.20' });
  });

  test('of other releases alone are not enough', () => {
    // Debian's QEMU brings those of 4.20, whatever runs.
    const only = { usable: ['4.20'], installed: ['4.20'], missing: [] };
    expect(judgeLibraries(only, '4.22')).toMatchObject({
      status: 'failed',
      message: 'libxenctrl of the running Xen (4.22) is not installed; libxenctrl 4.20 is',
      hint: expect.stringContaining('xen-utils-4.22'),
    });
    expect(judgeLibraries({ ...only, installed: [] }, '4.22').message).toBe(
      'libxenctrl of the running Xen (4.22) is not installed',
    );
  });

  test('that cannot be loaded are named, but none of another release', () => {
    const error = new Error('undefined symbol');
    const missing = ['libxenguest.so.4.22', 'libxenctrl.so.4.17', 'libxenforeignmemory.so.1'];
    const broken = {
      usable: [],
      installed: ['4.22'],
      missing: missing.map((library) => ({ library, error })),
    };
    expect(judgeLibraries(broken, '4.22')).toMatchObject({
      status: 'failed',
      message: 'libxenguest.so.4.22: undefined symbol; libxenforeignmemory.so.1: undefined symbol',
    });
  });

  test('on a machine without Xen: what to install', () => {
    expect(judgeLibraries({ usable: [], installed: [], missing: [] }, undefined)).toMatchObject({
      status: 'failed',
      message: 'libxenctrl is not installed',
      hint: expect.stringContaining('4.22, 4.21, 4.20, 4.19, 4.18 and 4.17'),
    });
  });
});

test.each([
  ['real-xen', 'ok', 'tested on real Xen'],
  ['headers', 'ok', 'by its headers, and is not tested'],
  ['none', 'warning', 'does not know this release'],
] as const)('a release with proof "%s" is %s', (proof, status, words) => {
  expect(judgeProof(proof)).toMatchObject({ status, message: expect.stringContaining(words) });
});
