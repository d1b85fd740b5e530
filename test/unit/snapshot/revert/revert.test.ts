import {
  appendFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import { toDomid } from '../../../../src/core/brand.ts';
import { DiskError, RiskError, type XlsnapError } from '../../../../src/core/errors.ts';
import type { Progress } from '../../../../src/core/reporter.ts';
import { configDisks } from '../../../../src/memfile/libxl-config.ts';
import type { RevertRequest } from '../../../../src/snapshot/api.ts';
import { createSnapshot } from '../../../../src/snapshot/create/create.ts';
import { recoverAll } from '../../../../src/snapshot/recover.ts';
import { planRevert, revertSnapshot } from '../../../../src/snapshot/revert/revert.ts';
import { RISK_ADVICE, type RiskName, riskNames } from '../../../../src/snapshot/risks.ts';
import {
  contentOf,
  FAKE_UUID,
  FakeHost,
  type FakeOptions,
  readImage,
  writeImage,
} from '../../../../src/testing/fake-host.ts';
import { type DiskKind, failure, fastDirectory, snapshotConfig } from '../../../support/scene.ts';

let directory: string;
const fresh = (): string => fastDirectory('xlsnap-revert-');
beforeEach(() => {
  directory = fresh();
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const at = (name: string): string => join(directory, name);

function makeHost(options: Partial<FakeOptions> = {}): FakeHost {
  return new FakeHost({ directory, disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }], ...options });
}

const MIXED: readonly DiskKind[] = ['internal', 'external'];

async function take(host: FakeHost, kinds: readonly DiskKind[] = MIXED, name = 's1'): Promise<RevertRequest> {
  const cfg = snapshotConfig(name, directory, kinds);
  const { plan } = await createSnapshot(host, { domain: 'guest1', config: cfg });
  return {
    domain: 'guest1',
    config: parseConfig(readFileSync(plan.configPath ?? '', 'utf8'), plan.configPath),
  };
}

/** Every file with its content: images, tags, leftovers. */
function files(): Record<string, string> {
  return Object.fromEntries(
    readdirSync(directory)
      .sort()
      .map((name) => [name, readFileSync(at(name), 'latin1')]),
  );
}

/** Returns the files of a revert in progress. */
const leftovers = (): string[] => readdirSync(directory).filter((name) => /before-|fresh-/.test(name));
const tagsOf = (vdev: string): string[] => Object.keys(readImage(at(`${vdev}.img`)).tags);
/** What the guest reads from its disks. */
const contents = (host: FakeHost): string[] => [...host.inUse.values()].map(contentOf);

/** Checks a revert that is refused: the domain keeps running, no file has changed. */
async function refused(host: FakeHost, request: RevertRequest): Promise<XlsnapError> {
  const before = files();
  const { domid, runs } = host;
  const from = host.calls.length;
  const error = await failure(revertSnapshot(host, request));
  expect(host.calls.slice(from).filter((call) => changes.has(call))).toEqual([]);
  expect(files()).toEqual(before);
  expect({ domid: host.domid, runs: host.runs }).toEqual({ domid, runs });
  return error;
}

const changes = new Set([
  'destroy',
  'restore',
  'unpause',
  'pause',
  'applyTag',
  'createTag',
  'deleteTag',
  'createOverlay',
]);

describe('revertSnapshot', () => {
  it.each([
    [['internal', 'internal']],
    [['external', 'external']],
    [['internal', 'external']],
    [['external', 'internal']],
  ] as const)('restores memory and disks of %s, any number of times', async (kinds) => {
    const host = makeHost();
    host.write('at the snapshot');
    const request = await take(host, kinds);
    for (const later of ['later', 'later still', 'at last']) {
      host.write(later);
      const result = await revertSnapshot(host, request);
      expect(contents(host)).toEqual(['at the snapshot', 'at the snapshot']);
      expect(host.domid).toBe(result.domid);
      expect(host.runs).toBe(true);
      expect(leftovers()).toEqual([]);
      expect(tagsOf('xvda')).toEqual(kinds[0] === 'internal' ? ['s1'] : []);
      expect(tagsOf('xvdb')).toEqual(kinds[1] === 'internal' ? ['s1'] : []);
      expect(result.warnings).toEqual([]);
      expect(configDisks(host.config).map((disk) => disk.path)).toEqual([...host.inUse.values()]);
    }
  });

  it('replaces the file that an overlay links to, and leaves the link', async () => {
    const host = makeHost();
    host.write('at the snapshot');
    const request = await take(host, ['external', 'external']);
    const overlay = host.inUse.get('xvda') ?? '';
    renameSync(overlay, at('elsewhere'));
    symlinkSync(at('elsewhere'), overlay);
    host.write('later');
    const names = readdirSync(directory);
    await revertSnapshot(host, request);
    expect(contents(host)).toEqual(['at the snapshot', 'at the snapshot']);
    expect(readlinkSync(overlay)).toBe(at('elsewhere'));
    expect(readdirSync(directory)).toEqual(names);
  });

  it('reports what has been read of the file, and how long the domain was away', async () => {
    const host = makeHost();
    const request = await take(host);
    const seen: string[] = [];
    const reporter = {
      phase() {},
      log() {},
      progress: ({ phase, done, total, unit }: Progress) => {
        if (done === total) seen.push(`${phase} ${total} ${unit}`);
      },
    };
    host.after = (call) => (call === 'restore' ? sleep(60) : undefined);
    const { awaySeconds, totalSeconds } = await revertSnapshot(host, request, { reporter });
    const { size } = statSync(at('s1.save'));
    expect(seen).toEqual([`check ${size} bytes`, `restore ${size} bytes`]);
    expect(awaySeconds).toBeGreaterThanOrEqual(0.055);
    expect(awaySeconds).toBeLessThan(totalSeconds);
  });

  it('writes to no base', async () => {
    const host = makeHost();
    const request = await take(host, ['external', 'external']);
    const base = readFileSync(at('xvda.img'), 'utf8');
    host.write('later');
    await revertSnapshot(host, request);
    host.write('after the revert');
    expect(readFileSync(at('xvda.img'), 'utf8')).toBe(base);
  });

  it.each([
    ['running', false, false, true],
    ['running', false, true, true],
    ['paused', true, false, false],
    ['paused', true, true, true],
  ])(
    'leaves a domain that was %s at the snapshot (--running: %3$s) in the right state',
    async (_was, paused, running, runs) => {
      const host = makeHost({ paused });
      const request = await take(host);
      const { plan } = await revertSnapshot(host, { ...request, running });
      expect(plan.state).toBe(runs ? 'running' : 'paused');
      expect(host.runs).toBe(runs);
    },
  );

  it('needs no running domain', async () => {
    const host = makeHost();
    const request = await take(host);
    host.write('later');
    await host.toolstack.destroy(toDomid(7), { timeoutMs: 1 });
    host.calls.length = 0;
    const result = await revertSnapshot(host, request);
    expect(host.calls).not.toContain('destroy');
    expect(result.awaySeconds).toBeUndefined();
    expect(result.plan.domid).toBeUndefined();
    expect(contents(host)).toEqual(['at start', 'at start']);
  });

  it("finds a memory file that the cfgfile does not name in the host's directories", async () => {
    const host = makeHost();
    const { plan } = await createSnapshot(host, { domain: 'guest1', name: 's1' });
    expect(plan.memoryPath).toBe(at(`${FAKE_UUID}/s1.save`));
    await revertSnapshot(host, { domain: 'guest1', config: { name: 's1' } });
    expect(host.domid).toBe(8);
  });

  it('takes a domain by the domid of a running one', async () => {
    const host = makeHost();
    const request = await take(host);
    await revertSnapshot(host, { ...request, domain: '7' });
    expect(host.domid).toBe(8);
  });

  it('takes a renamed domain by its domid, since its uuid is the same', async () => {
    const host = makeHost();
    const request = await take(host);
    host.config = { ...host.config, c_info: { name: 'renamed', uuid: FAKE_UUID.toUpperCase() } };
    expect((await refused(host, { ...request, domain: '7' })).code).toBe('RISKY');
    await revertSnapshot(host, { ...request, domain: '7', force: true });
    expect(host.config['c_info']).toMatchObject({ name: 'guest1' });
  });

  it('takes a diskless guest', async () => {
    const host = makeHost({ disks: [] });
    const request = await take(host, []);
    await revertSnapshot(host, request);
    expect(host.runs).toBe(true);
  });

  it('keeps what it replaces if asked to, and says where', async () => {
    const host = makeHost();
    const request = await take(host);
    host.write('later');
    const { kept } = await revertSnapshot(host, { ...request, keep: true });
    expect(kept).toEqual([expect.stringMatching(/s1-xvdb\.qcow2\.before-/)]);
    expect(contentOf(kept[0] ?? '')).toBe('later');
    // A safety tag takes space in the image itself, so it is not kept.
    expect(tagsOf('xvda')).toEqual(['s1']);
  });

  it('plans without touching anything', async () => {
    const host = makeHost();
    const request = await take(host);
    const before = files();
    host.calls.length = 0;
    const plan = await planRevert(host, request);
    expect(plan).toMatchObject({ name: 's1', domain: 'guest1', domid: 7, state: 'running', risks: [] });
    expect(host.calls.filter((call) => changes.has(call))).toEqual([]);
    expect(files()).toEqual(before);
  });

  it('warns of what it could not remove, and succeeds', async () => {
    const host = makeHost();
    const request = await take(host);
    host.fault = (call) => {
      if (call === 'undoSnapshots') throw new DiskError('TEST', 'QEMU refuses');
    };
    const { warnings } = await revertSnapshot(host, request);
    expect(warnings).toEqual([expect.stringMatching(/xlsnap-before-.* is still there: QEMU refuses/)]);
    expect(host.runs).toBe(true);
  });
});

describe('a revert that is refused', () => {
  it.each(['guest2', '8', '7x'])('for another domain, %s', async (domain) => {
    const host = makeHost();
    const request = await take(host);
    expect(await refused(host, { ...request, domain })).toMatchObject({
      code: 'OTHER_DOMAIN',
      hint: expect.stringContaining('guest1'),
    });
  });

  it('for a name that leads elsewhere', async () => {
    const host = makeHost();
    await take(host);
    for (const name of ['../../x', 'a/b', '-x']) {
      const error = await refused(host, { domain: 'guest1', config: { name } });
      expect(error).toMatchObject({ code: 'BAD_NAME', exitCode: 2 });
    }
  });

  it('for dom0', async () => {
    const host = makeHost();
    const request = await take(host);
    host.domid = toDomid(0);
    expect((await refused(host, request)).code).toBe('DOMAIN_NOT_FOUND');
  });

  it('for a cfgfile that leads to no memory file', async () => {
    const host = makeHost();
    await take(host);
    const request = { domain: 'guest1', config: parseConfig("disks=[',,xvda']", 'x.cfg') };
    expect(await refused(host, request)).toMatchObject({
      code: 'NO_MEMORY_PATH',
      message: expect.stringContaining('x.cfg'),
    });
  });

  const edit = (change: (manifest: Record<string, unknown>) => void): void => {
    const manifest = JSON.parse(readFileSync(at('s1.save.json'), 'utf8')) as Record<string, unknown>;
    change(manifest);
    writeFileSync(at('s1.save.json'), JSON.stringify(manifest));
  };
  const size = (): number => statSync(at('s1.save')).size;
  const flipBit = (path: string, offset: number): void => {
    const bytes = readFileSync(path);
    bytes[offset] = (bytes[offset] ?? 0) ^ 4;
    writeFileSync(path, bytes);
  };

  it.each<[string, () => void, string]>([
    ['a memory file that no longer exists', () => rmSync(at('s1.save')), 'NO_MEMORY_FILE'],
    ['an empty memory file', () => truncateSync(at('s1.save')), 'TRUNCATED'],
    ['a memory file cut in its header', () => truncateSync(at('s1.save'), 40), 'TRUNCATED'],
    ['a memory file cut in its pages', () => truncateSync(at('s1.save'), size() >> 1), 'TRUNCATED'],
    ['a memory file cut by its last byte', () => truncateSync(at('s1.save'), size() - 1), 'TRUNCATED'],
    ['a memory file without its last record', () => truncateSync(at('s1.save'), size() - 8), 'TRUNCATED'],
    ['a memory file with something behind its end', () => appendFileSync(at('s1.save'), 'x'), 'TRAILING'],
    ['something else as memory file', () => writeFileSync(at('s1.save'), 'x'.repeat(9999)), ''],
    [
      'a memory file of another size',
      () =>
        edit((manifest) => {
          manifest['memory'] = { path: '', bytes: 1, pages: 1 };
          delete manifest['checksums'];
        }),
      'MEMORY_CHANGED',
    ],
    ['a page that is not as it was written', () => flipBit(at('s1.save'), size() >> 1), 'CHECKSUM'],
    ['a guest’s state that is not as it was written', () => flipBit(at('s1.save'), size() - 60), 'CHECKSUM'],
    [
      'a tag that no longer exists',
      () => writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), tags: { other: 'x' } }),
      'NO_TAG',
    ],
    ['an image that no longer exists', () => rmSync(at('xvda.img')), 'NO_IMAGE'],
    ['a base that no longer exists', () => rmSync(at('xvdb.img')), 'NO_IMAGE'],
    ['a damaged manifest', () => writeFileSync(at('s1.save.json'), '{"format":'), 'MANIFEST'],
    ['a later manifest', () => edit((manifest) => (manifest['version'] = 2)), 'MANIFEST'],
  ])('a revert is refused for %s, even with --force', async (_what, change, code) => {
    const host = makeHost();
    const request = await take(host);
    change();
    for (const force of [false, true]) {
      const error = await refused(host, { ...request, force });
      if (code === '') expect(error.exitCode).toBe(9);
      else expect(error.code).toBe(code);
      if (code === 'NO_TAG') expect(error.hint).toContain('other');
    }
  });

  it('for a disk that the domain never had', async () => {
    const host = makeHost();
    const request = await take(host);
    const disks = [...(request.config.disks ?? []), { kind: 'internal', target: 'xvdz' } as const];
    const error = await refused(host, { ...request, config: { ...request.config, disks } });
    expect(error.code).toBe('NO_SUCH_DISK');
  });

  it('for everything that prevents it at once', async () => {
    const host = makeHost();
    const request = await take(host);
    rmSync(at('xvdb.img'));
    writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), tags: {} });
    const error = await refused(host, request);
    expect(error.message).toContain('xvda');
    expect(error.message).toContain('xvdb.img no longer exists');
  });

  it.each(['xvdb.img', 'below.img'])('for an overlay that would replace its own base, %s', async (name) => {
    const host = makeHost();
    writeImage(at('below.img'), { format: 'qcow2', content: 'below', tags: {} });
    writeImage(at('xvdb.img'), { ...readImage(at('xvdb.img')), backing: at('below.img') });
    const request = await take(host);
    const disks = [{ kind: 'external', target: 'xvdb', path: at(name), format: 'qcow2' } as const];
    const error = await refused(host, { ...request, force: true, config: { ...request.config, disks } });
    expect(error.code).toBe('OVERLAY_IS_BASE');
  });

  it('for two disks with one overlay', async () => {
    const host = makeHost();
    const request = await take(host, ['external', 'external']);
    const disks = ['xvda', 'xvdb'].map(
      (target) => ({ kind: 'external', target, path: at('one.qcow2'), format: 'qcow2' }) as const,
    );
    const error = await refused(host, { ...request, force: true, config: { ...request.config, disks } });
    expect(error.code).toBe('PATH_TWICE');
  });

  it('for a tag that a guest has written to its raw disk', async () => {
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb', format: 'raw' }] });
    const request = await take(host, ['internal', 'external']);
    const pretends = { format: 'qcow2', content: '', tags: { s1: 'of its own making' } };
    writeImage(at('xvdb.img'), { ...readImage(at('xvdb.img')), pretends });
    const disks = ['xvda', 'xvdb'].map((target) => ({ kind: 'internal', target }) as const);
    const error = await refused(host, { ...request, force: true, config: { ...request.config, disks } });
    expect(error).toMatchObject({ code: 'IMAGE_FORMAT' });
    expect(host.harm).toEqual([]);
  });

  it('when the domain runs under another name, on the same images', async () => {
    const host = makeHost();
    const request = await take(host);
    host.config = { ...host.config, c_info: { type: 'pvh', name: 'renamed', uuid: FAKE_UUID } };
    expect(await refused(host, { ...request, force: true })).toMatchObject({ code: 'RENAMED', domid: 7 });
    expect((await planRevert(host, { ...request, domain: '7', force: true })).domid).toBe(7);
  });

  it('when it is not known where an image is', async () => {
    const host = makeHost();
    const request = await take(host);
    const path = at('s1.save.json');
    writeFileSync(path, readFileSync(path, 'utf8').replaceAll(at('xvda.img'), 'xvda.img'));
    expect((await refused(host, { ...request, force: true })).code).toBe('IMAGE_RELATIVE');
  });
});

it('an image is recognised under the name of a symbolic link', async () => {
  const host = makeHost();
  const request = await take(host, ['external', 'external']);
  symlinkSync(at('xvda.img'), at('link'));
  const [first, ...others] = host.config['disks'] as Record<string, unknown>[];
  host.config = { ...host.config, disks: [{ ...first, pdev_path: at('link') }, ...others] };
  const error = await refused(host, request);
  expect(error).toBeInstanceOf(RiskError);
  expect(error.message).toContain(`disk xvda: the domain writes to ${at('xvda.img')} itself`);
});

describe('a risky revert', () => {
  const cases: [string, readonly DiskKind[], (host: FakeHost) => unknown, RiskName, string][] = [
    [
      'the configuration has changed',
      MIXED,
      (host) => (host.config = { ...host.config, b_info: { max_memkb: 1 } }),
      'config-changed',
      'configuration has changed',
    ],
    [
      'the manifest is missing',
      MIXED,
      () => rmSync(at('s1.save.json')),
      'no-manifest',
      'there is no manifest',
    ],
    [
      'a writable disk is not covered',
      ['internal'],
      () => {},
      'disk-uncovered',
      'disk xvdb is not part of the snapshot',
    ],
    [
      'a later snapshot depends on the overlay',
      MIXED,
      (host) => take(host, MIXED, 's2'),
      'later-snapshot',
      's2-xvdb.qcow2 depends on the overlay',
    ],
    [
      'the overlay holds later snapshots',
      MIXED,
      (host) => take(host, ['internal', 'internal'], 's2'),
      'later-snapshot',
      'holds later snapshots (s2)',
    ],
    [
      "the image lies below the domain's overlay",
      ['internal', 'internal'],
      (host) => take(host, ['external', 'internal'], 's2'),
      'later-snapshot',
      'xvda.img and would be broken',
    ],
    [
      'the file in the place of the overlay is none of that base',
      MIXED,
      () => writeImage(at('s1-xvdb.qcow2'), { format: 'raw', content: 'precious', tags: {} }),
      'not-an-overlay',
      'is not an overlay of',
    ],
    [
      'the domain writes to the base itself',
      MIXED,
      (host) =>
        host.toolstack.repointDisks(toDomid(7), [{ vdev: 'xvdb', path: at('xvdb.img'), format: 'qcow2' }]),
      'base-written',
      'has changed since the snapshot',
    ],
    [
      'the domain has another image by now',
      MIXED,
      (host) => {
        writeImage(at('new.img'), { format: 'qcow2', content: 'new', tags: {} });
        return host.toolstack.repointDisks(toDomid(7), [
          { vdev: 'xvda', path: at('new.img'), format: 'qcow2' },
        ]);
      },
      'other-image',
      'new.img, which is unrelated to',
    ],
    [
      'the domain writes to an image that lies below that of the snapshot',
      MIXED,
      (host) => {
        writeImage(at('below.img'), { format: 'qcow2', content: 'below', tags: {} });
        writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), backing: at('below.img') });
        return host.toolstack.repointDisks(toDomid(7), [
          { vdev: 'xvda', path: at('below.img'), format: 'qcow2' },
        ]);
      },
      'base-written',
      'below.img, which is below',
    ],
    [
      'the tag was deleted and taken again under the same name',
      ['internal', 'internal'],
      async (host) => {
        host.own.end();
        await host.images.deleteTag(at('xvda.img'), 's1');
        writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), content: 'at start' });
        await host.images.createTag(at('xvda.img'), 's1');
      },
      'tag-replaced',
      'the memory belongs to one of that name that was taken at',
    ],
    [
      'a disk has another size',
      ['internal', 'internal'],
      (host) => {
        host.own.end();
        writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), virtualSize: 1 << 21 });
      },
      'disk-resized',
      'xvda.img now has 2097152 bytes; at the snapshot the guest saw 1048576',
    ],
    [
      'the base was written to, and the domain is down',
      ['external', 'internal'],
      (host) => {
        host.own.end();
        writeImage(at('xvda.img'), readImage(at('xvda.img')));
      },
      'base-written',
      'xvda.img was written to at ',
    ],
    [
      'a later snapshot stands on the overlay, and the domain is down',
      ['external', 'internal'],
      async (host) => {
        const config = snapshotConfig('s2', directory, ['external', 'internal']);
        await createSnapshot(host, { domain: 'guest1', config, sync: false });
        host.own.end();
      },
      'later-snapshot',
      'the snapshot "s2"',
    ],
    [
      'Xen is another',
      MIXED,
      (host) => {
        host.hypervisor.version = () => Promise.resolve({ major: 4, minor: 21, extra: '' });
      },
      'xen-changed',
      'taken on Xen 4.20; this is 4.21',
    ],
  ];

  it.each(cases)('a revert is refused if %s', async (_what, kinds, change, risk, message) => {
    const host = makeHost();
    const request = await take(host, kinds);
    host.write('later');
    await change(host);
    const error = await refused(host, request);
    expect(error).toBeInstanceOf(RiskError);
    expect(error.message).toContain(message);
    expect(error.message).toContain(`  - ${risk}: `);
    expect(error.message).toContain(`    instead: ${RISK_ADVICE[risk]}`);
    expect(error.data['risks']).toEqual([
      expect.objectContaining({ risk, message: expect.stringContaining(message) }),
    ]);
    expect(error.hint).toContain('--force');
  });

  it.each(cases)('a revert is done with --accept if %s', async (_what, kinds, change, risk) => {
    const host = makeHost();
    const request = await take(host, kinds);
    await change(host);
    const others = riskNames().filter((name) => name !== risk);
    expect((await refused(host, { ...request, accept: others })).code).toBe('RISKY');
    await revertSnapshot(host, { ...request, accept: [risk] });
    expect(host.runs).toBe(true);
  });

  it('with a misspelt risk is a usage error', async () => {
    const host = makeHost();
    const request = await take(host);
    const accept = ['xen-changed', 'base-writen'] as unknown as RiskName[];
    expect(await refused(host, { ...request, accept })).toMatchObject({
      code: 'UNKNOWN_RISK',
      exitCode: 2,
      message: expect.stringContaining('base-writen'),
      hint: expect.stringContaining('base-written'),
    });
  });

  it('reports only the risks that are not accepted, and the command that accepts all', async () => {
    const host = makeHost();
    const request = await take(host, ['internal']);
    rmSync(at('s1.save.json'));
    const given = { ...request, config: { ...request.config, source: "it's s1.cfg" }, running: true };
    const error = await refused(host, { ...given, timeoutMs: 9000, accept: ['no-manifest', 'xen-changed'] });
    expect(error.message).not.toContain('no-manifest');
    expect(error.data).toMatchObject({
      plan: { name: 's1', state: 'running', disks: [{ vdev: 'xvda' }] },
      risks: [expect.objectContaining({ risk: 'disk-uncovered', vdev: 'xvdb' })],
      command:
        "xlsnap snapshot-revert guest1 'it'\\''s s1.cfg' --running --accept no-manifest,xen-changed,disk-uncovered --timeout 9",
    });
    const { source: _, ...unnamed } = request.config;
    expect((await refused(host, { ...request, config: unnamed })).data['command']).toBeUndefined();
    const named = { ...request, config: unnamed, named: 's1', otherOptions: ['--dir', '/srv'] };
    expect((await refused(host, named)).data['command']).toBe(
      'xlsnap snapshot-revert guest1 s1 --accept no-manifest,disk-uncovered --dir /srv',
    );
  });

  it.each(cases)('is done with --force if %s', async (_what, kinds, change, risk, message) => {
    const host = makeHost();
    const request = await take(host, kinds);
    host.write('later');
    await change(host);
    const { warnings } = await revertSnapshot(host, { ...request, force: true });
    expect(warnings).toEqual([expect.stringContaining(message)]);
    expect(warnings[0]).toMatch(new RegExp(`^${risk}: `));
    expect(host.runs).toBe(true);
    expect(leftovers()).toEqual([]);
    const covered = kinds.map((_kind, i) => host.inUse.get(`xvd${'ab'[i]}`) ?? '');
    expect(covered.map(contentOf)).toEqual(kinds.map(() => 'at start'));
  });
});

describe('a revert that fails', () => {
  interface Scene {
    host: FakeHost;
    request: RevertRequest;
  }

  async function scene(running: boolean): Promise<Scene> {
    rmSync(directory, { recursive: true });
    directory = fresh();
    const host = makeHost({ disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }] });
    host.write('at the snapshot');
    const request = await take(host);
    host.write('later');
    if (!running) await host.toolstack.destroy(toDomid(7), { timeoutMs: 1 });
    host.calls.length = 0;
    return { host, request };
  }

  it('a revert reports an undo that fails, with what to do by hand, and does the others', async () => {
    const { host, request } = await scene(true);
    let applied = 0;
    host.fault = (call) => {
      if (call === 'applyTag' && ++applied === 2) throw new DiskError('TEST', 'no applyTag');
    };
    host.after = (call) => {
      if (call === 'createOverlay') throw new DiskError('TEST', 'no createOverlay');
    };
    const error = await failure(revertSnapshot(host, request));
    expect(error).toMatchObject({ code: 'DISKS_NOT_REVERTED', phase: 'disks' });
    expect(error.message).toContain('not all of its disks are as before');
    expect(error.hint).toContain('by hand');
    expect(error.undone).toEqual([expect.stringContaining('xvdb')]);
    expect(error.undoFailures).toEqual([
      expect.stringContaining('no applyTag'),
      expect.stringContaining(`xlsnap recover ${at(`${FAKE_UUID}.revert.journal`)}`),
    ]);
    const byHand = /by hand: qemu-img snapshot -a (\S+) (\S+) && /.exec(error.undoFailures[0] ?? '');
    // What is to be done by hand can be done.
    expect(readImage(byHand?.[2] ?? '').tags[byHand?.[1] ?? '']).toBe('later');
    expect(contentOf(at('s1-xvdb.qcow2'))).toBe('later');
  });

  it('reports a destroy that did not work', async () => {
    const { host, request } = await scene(true);
    host.fault = (call) => {
      if (call === 'destroy') throw new DiskError('TEST', 'no destroy');
    };
    const before = files();
    const error = await failure(revertSnapshot(host, request));
    expect(error.phase).toBe('destroy');
    expect(error.message).toContain('its disks are unchanged');
    expect(files()).toEqual(before);
  });

  it('leaves no overlay behind where there was none', async () => {
    const { host, request } = await scene(false);
    rmSync(at('s1-xvdb.qcow2'));
    const before = files();
    host.fault = (call) => {
      if (call === 'applyTag') throw new DiskError('TEST', 'no applyTag');
    };
    const disks = [...(request.config.disks ?? [])].reverse();
    await failure(revertSnapshot(host, { ...request, config: { ...request.config, disks } }));
    expect(existsSync(at('s1-xvdb.qcow2'))).toBe(false);
    host.fault = () => {};
    // The safety tag's undo needed applyTag as well.
    await recoverAll(host);
    expect(files()).toEqual(before);
  });
});
