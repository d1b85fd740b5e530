/** Tests what is known before anything is done to the domain. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import { toDomid } from '../../../../src/core/brand.ts';
import type { LibxlConfig } from '../../../../src/memfile/libxl-config.ts';
import { numberOf } from '../../../../src/memfile/libxl-fields.ts';
import { printLibxlJson } from '../../../../src/memfile/libxl-json.ts';
import { readMemoryFacts } from '../../../../src/memfile/verify.ts';
import { replaceConfig } from '../../../../src/savefmt/index.ts';
import type { RevertRequest } from '../../../../src/snapshot/api.ts';
import { createSnapshot } from '../../../../src/snapshot/create/create.ts';
import { examineDomain } from '../../../../src/snapshot/create/examine.ts';
import type { RestoreFacts } from '../../../../src/snapshot/ports.ts';
import { planRevert, revertSnapshot } from '../../../../src/snapshot/revert/revert.ts';
import { FakeHost, type FakeOptions } from '../../../../src/testing/fake-host.ts';
import {
  expectAsBefore,
  failure,
  fastDirectory,
  snapshotConfig,
  before as stateOf,
} from '../../../support/scene.ts';

let directory: string;
beforeEach(() => {
  directory = fastDirectory('xlsnap-foreseen-');
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const makeHost = (options: Partial<FakeOptions> = {}): FakeHost => new FakeHost({ directory, ...options });
const config = () => snapshotConfig('s1', directory, ['internal']);

async function take(host: FakeHost): Promise<RevertRequest> {
  const { plan } = await createSnapshot(host, { domain: 'guest1', config: config() });
  return {
    domain: 'guest1',
    config: parseConfig(readFileSync(plan.configPath ?? '', 'utf8'), plan.configPath),
  };
}

/** The guest has 300 pages: 1200 KiB, more than such a target plus libxl's 1024 KiB. */
const withTarget = (host: FakeHost, target: number): LibxlConfig => ({
  ...host.config,
  b_info: { ...(host.config['b_info'] as object), target_memkb: target, max_memkb: target },
});
const targetOf = (made: LibxlConfig): number | undefined => numberOf(made, 'b_info', 'target_memkb');

describe('a guest with more memory than its target', () => {
  test.each([false, true])(
    'a guest gets a file whose target has room for all its pages (live: %s)',
    async (live) => {
      const host = makeHost();
      host.config = withTarget(host, 16);
      const { plan, warnings } = await createSnapshot(host, { domain: 'guest1', config: config(), live });
      const { config: stored, pages } = await readMemoryFacts(plan.memoryPath);
      expect(pages).toBe(300);
      expect(stored).toEqual(withTarget(host, 1200));
      expect(warnings).toEqual([expect.stringContaining('more than its target of 1 MiB')]);
    },
  );

  test('gets an unchanged file if its target has room', async () => {
    const host = makeHost();
    host.config = withTarget(host, 200);
    const { plan, warnings } = await createSnapshot(host, { domain: 'guest1', config: config() });
    expect(targetOf((await readMemoryFacts(plan.memoryPath)).config)).toBe(200);
    expect(warnings).toEqual([]);
  });

  test('is restored with room for its pages from a file that does not say so', async () => {
    const host = makeHost();
    host.config = withTarget(host, 1200);
    const request = await take(host);
    const path = join(directory, 's1.save');
    const bytes = readFileSync(path);
    const older = replaceConfig(bytes, printLibxlJson(withTarget(host, 16)));
    writeFileSync(path, Buffer.concat([older ?? Buffer.of(), bytes.subarray(older?.length)]));
    rmSync(`${path}.json`);
    const { warnings } = await revertSnapshot(host, { ...request, force: true });
    expect(targetOf(host.config)).toBe(1200);
    expect(warnings).toContainEqual(expect.stringContaining('the restored domain has that as its target'));
  });
});

describe('before a create', () => {
  test('memory that cannot be read without harm is not read', async () => {
    const host = makeHost();
    const was = stateOf(host);
    host.memoryObstacle = { code: 'POPULATE_ON_DEMAND', message: 'the guest still waits for memory' };
    const error = await failure(createSnapshot(host, { domain: 'guest1', config: config(), live: true }));
    expect(error.code).toBe('POPULATE_ON_DEMAND');
    expect(host.calls).not.toContain('openGuest');
    expect(host.calls).not.toContain('pageTypes');
    expectAsBefore(host, was);
  });

  test('a paused guest that has never run is not booted for it', async () => {
    const host = makeHost({ paused: true });
    host.booted = false;
    const was = stateOf(host);
    const error = await failure(createSnapshot(host, { domain: 'guest1', config: config() }));
    expect(error.code).toBe('NEVER_RAN');
    expect(error.hint).toContain('xl unpause 7');
    expect(host.calls).not.toContain('unpause');
    expectAsBefore(host, was);
    expect((await examineDomain(host, 'guest1')).obstacles).toMatchObject([{ code: 'NEVER_RAN' }]);
    host.booted = true;
    await createSnapshot(host, { domain: 'guest1', config: config() });
    expect((await host.hypervisor.domainState(toDomid(7)))?.paused).toBe(true);
  });

  test('an obstacle of the toolstack is refused, and doctor says the same', async () => {
    const host = makeHost();
    const was = stateOf(host);
    const nvme = { code: 'DEVICE_NOT_SAVED', message: 'nvme' };
    host.createFindings = { ...host.createFindings, obstacles: [nvme] };
    const error = await failure(createSnapshot(host, { domain: 'guest1', config: config() }));
    expect(error.code).toBe('DEVICE_NOT_SAVED');
    expect(host.calls).not.toContain('suspend');
    expectAsBefore(host, was);
    expect(await examineDomain(host, 'guest1')).toMatchObject({ possible: false, obstacles: [nvme] });
  });

  test('PCI devices are refused with --live, and only then', async () => {
    const host = makeHost();
    host.config = { ...host.config, pcidevs: [{ bus: 1 }] };
    const error = await failure(createSnapshot(host, { domain: 'guest1', config: config(), live: true }));
    expect(error.code).toBe('LIVE_IOMMU');
    expect(host.calls).not.toContain('openGuest');
    expect(await examineDomain(host, 'guest1')).toMatchObject({ possible: true, live: false });
    await take(host);
  });

  test('a drive that no disk entry names causes a warning, and is a risk of the revert', async () => {
    const host = makeHost();
    host.createFindings = { ...host.createFindings, unknownDrives: [{ name: 'usb1', path: '/d/stick.img' }] };
    const request = await take(host);
    expect((await examineDomain(host, 'guest1')).warnings).toContainEqual(
      expect.stringContaining('/d/stick.img'),
    );
    const error = await failure(planRevert(host, request));
    expect(error.message).toContain('/d/stick.img');
    expect(error.message).toContain('disk-uncovered: ');
    await revertSnapshot(host, { ...request, accept: ['disk-uncovered'] });
  });
});

describe('before a revert', () => {
  const gone = { code: 'IMAGE_GONE', message: 'disk hdc: its image /d/cd.iso no longer exists' };
  const finds = (host: FakeHost, found: object): void => {
    host.restoreFindings = () => ({
      obstacles: [],
      memoryRisk: undefined,
      warnings: [],
      qemus: [],
      ...found,
    });
  };

  test('what the restore would fail for is refused, even with --force', async () => {
    const host = makeHost();
    const request = await take(host);
    finds(host, { obstacles: [gone] });
    const { domid } = host;
    const error = await failure(revertSnapshot(host, { ...request, force: true }));
    expect(error.code).toBe('IMAGE_GONE');
    expect(host.calls).not.toContain('destroy');
    expect(host.domid).toBe(domid);
    expect((await examineDomain(host, 'guest1')).warnings).toEqual([`a revert would fail: ${gone.message}`]);
  });

  test('the toolstack is asked about the configuration, the pages and the domain to be destroyed', async () => {
    const host = makeHost();
    const request = await take(host);
    const asked: RestoreFacts[] = [];
    const answer = host.restoreFindings;
    host.restoreFindings = (facts) => {
      asked.push(facts);
      return answer(facts);
    };
    await planRevert(host, request);
    expect(asked).toMatchObject([
      {
        config: host.config,
        replacesConfig: false,
        pages: 300,
        disks: ['xvda'],
        replaced: { domain: { domid: 7 } },
      },
    ]);
  });

  test.each([
    ['memory that dom0 may be short of', 'memory-low', 'pvh', { memoryRisk: 'dom0 is small' }],
    ['another version of QEMU', 'qemu-changed', 'hvm', { qemus: ['9.2.1', '8.0.0'] }],
  ] as const)('%s is the risk %s', async (_, name, type, found) => {
    const host = makeHost({ type });
    const request = await take(host);
    finds(host, found);
    const error = await failure(revertSnapshot(host, request));
    expect(error.message).toContain(`- ${name}: `);
    expect(host.calls).not.toContain('destroy');
    const { plan } = await revertSnapshot(host, { ...request, accept: [name] });
    expect(plan.risks.map(({ risk }) => risk)).toEqual([name]);
  });

  test.each([
    ['another stable release', 'hvm', ['10.0.2']],
    ['several, one of them the same', 'hvm', ['7.2.0', '10.0.13']],
    ['none that is known', 'hvm', []],
    ['another, but the guest has no machine of QEMU’s', 'pvh', ['7.2.0']],
  ] as const)('QEMU: %s is not a risk', async (_, type, qemus) => {
    const host = makeHost({ type });
    const request = await take(host);
    finds(host, { qemus });
    expect((await planRevert(host, request)).risks).toEqual([]);
  });
});

test('a restored domain whose disk nobody serves is reported', async () => {
  const host = makeHost();
  const request = await take(host);
  host.unconnectedDisks = [{ vdev: 'xvdb', path: '/d/cd.iso' }];
  const { warnings } = await revertSnapshot(host, request);
  expect(warnings).toEqual([expect.stringContaining('disk xvdb (/d/cd.iso) did not come up')]);
  expect(host.runs).toBe(true);
});
