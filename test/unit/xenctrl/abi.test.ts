import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ABIS, EXTRAVERSION_SIZE } from '../../../src/xenctrl/abi.ts';
import {
  type AbiFacts,
  CONSTANTS,
  probeAbi,
  probeObstacle,
  prototypes,
  structs,
} from '../../support/abi-probe.ts';

function fixture(release: string): AbiFacts {
  const file = join(import.meta.dirname, '../../../fixtures/abi', `${release}.json`);
  return JSON.parse(readFileSync(file, 'utf8'));
}

describe.each(ABIS)('the table for Xen $release', (abi) => {
  const facts = fixture(abi.release);

  test('has the sizes and offsets of the headers', () => {
    expect(abi.domainInfo).toEqual(facts.domainInfo);
    expect(abi.cpuidLeafSize).toBe(facts.cpuidLeafSize);
    expect(abi.msrEntrySize).toBe(facts.msrEntrySize);
    expect(abi.hypercallBufferSize).toBe(facts.hypercallBufferSize);
    expect(EXTRAVERSION_SIZE).toBe(facts.extraversionSize);
    expect(abi.domctlInterfaceVersion).toBe(facts.domctlInterfaceVersion);
  });

  test('has the structs of the headers', () => {
    expect(structs(abi)).toEqual(facts.structs);
  });

  test('has the constants of the headers', () => {
    expect(CONSTANTS).toEqual(facts.constants);
  });

  test('has the prototypes of the headers', () => {
    expect(prototypes()).toEqual(facts.prototypes);
  });
});

const obstacle = probeObstacle();
if (obstacle !== undefined) console.warn(`fixtures/abi is not compared with installed headers: ${obstacle}`);

/**
 * Release of the installed headers, from pkg-config: several releases have the same domctl version, and
 * __XEN_LATEST_INTERFACE_VERSION__ has not changed since 4.19.
 */
function installedRelease(): string {
  const { stdout } = spawnSync('pkg-config', ['--modversion', 'xencontrol'], { encoding: 'utf8' });
  return /^\d+\.\d+/.exec(stdout ?? '')?.[0] ?? '';
}

describe.skipIf(obstacle !== undefined)('the installed headers', () => {
  test('match the fixture of their release', { timeout: 60_000 }, () => {
    const release = installedRelease();
    expect(
      ABIS.map((abi) => abi.release),
      'release of the installed headers',
    ).toContain(release);
    expect(probeAbi()).toEqual(fixture(release));
  });
});

test('each supported release has a fixture, and each fixture a table', () => {
  const files = readdirSync(join(import.meta.dirname, '../../../fixtures/abi'));
  const releases = files.flatMap((name) => (name.endsWith('.json') ? [name.slice(0, -5)] : []));
  expect(releases.sort().reverse()).toEqual(ABIS.map(({ release }) => release));
});
