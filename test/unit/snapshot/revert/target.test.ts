import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import { toDomid } from '../../../../src/core/brand.ts';
import { silentReporter } from '../../../../src/core/reporter.ts';
import type { RevertRequest } from '../../../../src/snapshot/api.ts';
import { createSnapshot, planCreate } from '../../../../src/snapshot/create/create.ts';
import { planRevert, revertSnapshot } from '../../../../src/snapshot/revert/revert.ts';
import type { FakeDomain } from '../../../../src/testing/fake-domain.ts';
import { contentOf, FAKE_UUID, FakeHost } from '../../../../src/testing/fake-host.ts';
import { failure, fastDirectory, filesOf, snapshotConfig } from '../../../support/scene.ts';

const NEW_UUID = 'b0c49775-7d00-4b98-8ecd-e83645368a6e';

let host: FakeHost;
let directory: string;
beforeEach(() => {
  directory = fastDirectory('xlsnap-target-');
  host = new FakeHost({ directory });
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function call(name: string, uuid = FAKE_UUID): void {
  host.config = { ...host.config, c_info: { type: 'pvh', name, uuid } };
}

/** Another domain, which has no disks. */
function addOther(domid: number, name: string): FakeDomain {
  const other = host.addDomain({ name, uuid: NEW_UUID, images: {} });
  other.domid = toDomid(domid);
  return other;
}

/** Takes a snapshot of the domain under its current name. */
async function take(name = 's1'): Promise<RevertRequest> {
  const domain = String(host.domid);
  const { plan } = await createSnapshot(host, {
    domain,
    config: snapshotConfig(name, directory, ['internal']),
  });
  const path = plan.configPath ?? '';
  return { domain: plan.domain, config: parseConfig(readFileSync(path, 'utf8'), path) };
}

/** Plans a revert that destroys and changes nothing, whatever risks are accepted. */
async function refused(request: RevertRequest): Promise<Awaited<ReturnType<typeof failure>>> {
  const before = filesOf(directory);
  const from = host.calls.length;
  const error = await failure(revertSnapshot(host, { ...request, force: true }));
  expect(host.calls.slice(from).filter((name) => /destroy|restore|Tag$/.test(name))).toEqual([]);
  expect(filesOf(directory)).toEqual(before);
  return error;
}

describe('the domain of a snapshot', () => {
  it('the domain is found by name after xl create, which generated another uuid and MAC: that is not a risk', async () => {
    host.config = { ...host.config, nics: [{ devid: 0, mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }] };
    const request = await take();
    call('guest1', NEW_UUID);
    host.config = { ...host.config, nics: [{ devid: 0, mac: '00:16:3e:55:00:02', bridge: 'xenbr0' }] };
    host.write('later');
    expect((await planRevert(host, request)).risks).toEqual([]);
    const { plan, warnings } = await revertSnapshot(host, request);
    expect({ warnings, domid: plan.domid, uuid: plan.uuid }).toEqual({
      warnings: [],
      domid: 7,
      uuid: FAKE_UUID,
    });
    expect(contentOf(join(directory, 'xvda.img'))).toBe('at start');
  });

  it('needs no --force after each kind of new life: reboot, shutdown and create, absent', async () => {
    const request = await take();
    for (const live of [() => host.reboot(), () => host.recreate(), () => host.own.end()]) {
      live();
      const { warnings } = await revertSnapshot(host, request);
      expect(warnings).toEqual([]);
      expect(host.runs).toBe(true);
    }
  });

  it.each([
    ['xl mem-set', { max_memkb: 131072, target_memkb: 65536 }],
    ['xl vcpu-set', { max_memkb: 131072, avail_vcpus: [0] }],
    ['xl sched-credit2', { max_memkb: 131072, sched_params: { sched: 'credit2', weight: 512 } }],
  ])('is reverted without --force after %s', async (_what, b_info) => {
    host.config = {
      ...host.config,
      b_info: { max_memkb: 131072, target_memkb: 131072, avail_vcpus: [0, 1] },
    };
    const request = await take();
    host.config = { ...host.config, b_info };
    expect((await revertSnapshot(host, request)).warnings).toEqual([]);
  });

  it('is reported with each key that differs if its configuration has changed', async () => {
    const request = await take();
    host.config = { ...host.config, b_info: { max_memkb: 65536, kernel: '/boot/new' }, on_crash: 'restart' };
    const error = await failure(revertSnapshot(host, request));
    expect(error.message).toMatch(/config-changed: .*\n {4}b_info\.max_memkb: 131072 -> 65536\n/);
    expect(error.data['risks']).toMatchObject([
      {
        changes: [
          { key: 'b_info.max_memkb', before: 131072, now: 65536 },
          { key: 'b_info.kernel' },
          { key: 'on_crash' },
        ],
      },
    ]);
  });

  it.each(['101', '20240101', '32752'])(
    'may have a name of digits only, %s: snapshotted by domid, reverted by domid and by name',
    async (name) => {
      call(name);
      const request = await take();
      expect(request.domain).toBe(name);
      for (const domain of ['7', name]) {
        host.domid = toDomid(7);
        const { plan } = await revertSnapshot(host, { ...request, domain });
        expect(plan).toMatchObject({ domid: 7, domain: name });
      }
    },
  );

  it('the domain of a snapshot is never the one whose domid equals its name', async () => {
    call('101');
    const request = await take();
    const other = addOther(101, 'other');
    expect((await planRevert(host, request)).domid).toBe(7);
    host.domid = undefined;
    const plan = await planRevert(host, request);
    expect(plan).toMatchObject({ domid: undefined, domain: '101' });
    await revertSnapshot(host, { ...request, force: true });
    expect(other.domid).toBe(101);
  });

  it('is not snapshotted by a name of digits, as with xl; the error gives its domid', async () => {
    call('101');
    const error = await failure(createSnapshot(host, { domain: '101' }));
    expect(error).toMatchObject({ code: 'DOMAIN_NOT_FOUND', hint: expect.stringContaining('domid 7') });
  });

  it.each(['guest', 'guest11', 'Guest1', 'guest1 ', 'guest1abc', '07x', '0x7', '7e0'])(
    'is never another one whose name is similar: %j',
    async (domain) => {
      const request = await take();
      addOther(9, domain);
      expect((await refused({ ...request, domain })).code).toBe('OTHER_DOMAIN');
    },
  );

  it('is found by its uuid in capitals', async () => {
    const request = await take();
    expect((await planRevert(host, { ...request, domain: FAKE_UUID.toUpperCase() })).domid).toBe(7);
  });

  it.each(['guest1', '7', 'renamed', '9'])(
    'is not destroyed if another domain has taken its name since, given as %s',
    async (domain) => {
      const request = await take();
      call('renamed');
      addOther(9, 'guest1');
      const error = await refused({ ...request, domain });
      expect(error).toMatchObject({ code: 'NAME_TAKEN', exitCode: 4, data: { domids: [7, 9] } });
      expect(error.message).toContain('renamed (domid 7)');
    },
  );

  it('is reported with its new name as a change if it was renamed and is given by domid', async () => {
    const request = await take();
    call('renamed');
    expect(await refused(request)).toMatchObject({ code: 'RENAMED', hint: 'use its domid, 7' });
    expect(await refused({ ...request, domain: 'someone' })).toMatchObject({
      code: 'OTHER_DOMAIN',
      hint: expect.stringContaining('use its domid, 7'),
    });
    const error = await failure(revertSnapshot(host, { ...request, domain: '7' }));
    expect(error.message).toContain('c_info.name: "guest1" -> "renamed"');
    await revertSnapshot(host, { ...request, domain: 'renamed', accept: ['config-changed'] });
    expect(host.config['c_info']).toMatchObject({ name: 'guest1' });
  });
});

describe('a snapshot whose cfgfile does not say where it is', () => {
  const request = (domain: string): RevertRequest => ({ domain, config: { name: 's1' } });

  it.each([true, false])(
    'is found by the uuid that its domain had then; domain running: %s',
    async (running) => {
      const { plan } = await createSnapshot(host, { domain: 'guest1', name: 's1' });
      call('guest1', NEW_UUID);
      if (!running) host.domid = undefined;
      expect((await planRevert(host, request('guest1'))).memoryPath).toBe(plan.memoryPath);
      if (running) expect((await planRevert(host, request('7'))).memoryPath).toBe(plan.memoryPath);
      expect((await planRevert(host, request(FAKE_UUID))).memoryPath).toBe(plan.memoryPath);
    },
  );

  it('is neither one of that name of another domain, nor a file that is not a memory file', async () => {
    const { plan } = await createSnapshot(host, { domain: 'guest1', name: 's1' });
    mkdirSync(join(directory, 'odd'));
    writeFileSync(join(directory, 'odd/s1.save'), 'odd');
    call('guest2', NEW_UUID);
    await createSnapshot(host, { domain: 'guest2', config: { name: 's1', disks: [] } });
    expect(await refused(request('guest3'))).toMatchObject({ code: 'NO_MEMORY_PATH' });
    expect(await refused({ domain: 'guest2', config: { name: 's2' } })).toMatchObject({
      code: 'NO_MEMORY_FILE',
    });
    host.domid = undefined;
    expect((await planRevert(host, request('guest1'))).memoryPath).toBe(plan.memoryPath);
  });

  it('is ambiguous if there are two: the error lists them', async () => {
    const first = await createSnapshot(host, { domain: 'guest1', name: 's1' });
    call('guest1', NEW_UUID);
    const second = await createSnapshot(host, { domain: 'guest1', config: { name: 's1', disks: [] } });
    const error = await refused(request('guest1'));
    expect(error).toMatchObject({ code: 'AMBIGUOUS_SNAPSHOT', exitCode: 2 });
    for (const { plan } of [first, second]) expect(error.message).toContain(plan.memoryPath);
    expect(error.hint).toContain('memory_path=');
  });
});

it('snapshots whose names begin alike, or look like numbers, are distinguished', async () => {
  const names = ['a b', 'ab', 'a', '1e3', '0x1f', '1e3-2'];
  for (const name of names) {
    host.write(`as of ${name}`);
    await take(name);
  }
  for (const name of names) {
    const config = { name, memoryPath: join(directory, `${name}.save`) };
    await revertSnapshot(host, { domain: 'guest1', config });
    expect(contentOf(join(directory, 'xvda.img'))).toBe(`as of ${name}`);
  }
  expect((await failure(createSnapshot(host, { domain: 'guest1', name: '007' }))).code).toBe('BAD_NAME');
});

describe('locks', () => {
  /** The keys of each lock, and what happens once it is held. */
  function watchLocks(then: () => void = () => {}): string[][] {
    const { toolstack } = host;
    const lock = toolstack.lock.bind(toolstack);
    const keys: string[][] = [];
    toolstack.lock = async (wanted, options) => {
      keys.push([...wanted].sort());
      const held = await lock(wanted, options);
      then();
      return held;
    };
    return keys;
  }

  it('locks are on name and uuid for a create, and on those of the snapshot and of the domain for a revert', async () => {
    const keys = watchLocks();
    const request = await take();
    call('guest1', NEW_UUID);
    await revertSnapshot(host, request);
    expect(keys).toEqual([[FAKE_UUID, 'guest1'].sort(), [FAKE_UUID, NEW_UUID, 'guest1'].sort()]);
  });

  it('keep a revert away while a create works on the next life of the domain', async () => {
    const request = await take();
    host.recreate();
    let error: Promise<unknown> | undefined;
    host.after = (name) => {
      if (name === 'suspend') error ??= failure(revertSnapshot(host, request));
    };
    await createSnapshot(host, { domain: 'guest1', config: snapshotConfig('s2', directory, ['internal']) });
    expect(await error).toMatchObject({ code: 'DOMAIN_BUSY' });
    expect(host.runs).toBe(true);
  });

  it('are taken once more if the domain became another while they were waited for', async () => {
    const keys = watchLocks(() => call('guest1', NEW_UUID));
    await createSnapshot(host, { domain: 'guest1', config: snapshotConfig('s1', directory, ['internal']) });
    expect(keys).toEqual([[FAKE_UUID, 'guest1'].sort(), [NEW_UUID, 'guest1'].sort()]);
    expect(host.locked).toBe(false);
  });

  it('are given up if the domain is another one each time', async () => {
    let lives = 0;
    watchLocks(() => call('guest1', NEW_UUID.replace(/^b./, `b${lives++ % 10}`)));
    const error = await failure(createSnapshot(host, { domain: 'guest1' }));
    expect(error).toMatchObject({ code: 'DOMAIN_CHANGING', exitCode: 4 });
    expect(host.locked).toBe(false);
  });

  it('are released if the domain no longer exists by then', async () => {
    watchLocks(() => {
      host.domid = undefined;
    });
    expect((await failure(createSnapshot(host, { domain: 'guest1' }))).code).toBe('DOMAIN_NOT_FOUND');
    expect(host.locked).toBe(false);
  });

  it.each(['create', 'revert'])(
    'end a %s before it touches anything if they do not cover what the domain has become',
    async (what) => {
      const request = await take();
      const before = filesOf(directory);
      const reporter = {
        ...silentReporter,
        phase: (name: string, event: string) => {
          if (event === 'start' && /^(plan|check)$/.test(name)) call('guest1', NEW_UUID);
        },
      };
      const config = snapshotConfig('s2', directory, ['internal']);
      const error = await failure(
        what === 'create'
          ? createSnapshot(host, { domain: 'guest1', config }, { reporter })
          : revertSnapshot(host, request, { reporter }),
      );
      expect(error).toMatchObject({
        code: 'DOMAIN_CHANGED',
        hint: expect.stringContaining('nothing has been changed'),
      });
      expect(filesOf(directory)).toEqual(before);
    },
  );

  it.each<[string, (reboot: () => void) => void]>([
    [
      'its configuration is read',
      (reboot) => {
        const { domainConfig } = host.toolstack;
        host.toolstack.domainConfig = (domid) => {
          reboot();
          return domainConfig(domid);
        };
      },
    ],
    [
      // Its next life uses the images by then.
      'its images are examined',
      (reboot) => {
        const { info } = host.images;
        host.images.info = (...args) => {
          reboot();
          return info(...args);
        };
      },
    ],
  ])('lead to the right error if a domain restarts while %s', async (_what, onCall) => {
    const request = await take();
    const before = filesOf(directory);
    let isRebooted = false;
    onCall(() => {
      if (!isRebooted) host.reboot();
      isRebooted = true;
    });
    expect(await failure(revertSnapshot(host, request))).toMatchObject({
      code: 'DOMAIN_CHANGED',
      exitCode: 4,
    });
    expect(isRebooted).toBe(true);
    expect(filesOf(directory)).toEqual(before);
  });
});

describe('the journal of a revert that was killed', () => {
  const other = '11111111-2222-4333-8444-555555555555';
  /** Leaves what a revert leaves that was killed before it had done anything. */
  async function leaveJournal(head: Record<string, unknown> = {}): Promise<string> {
    const { openRevertJournal, revertJournalPath } = await import(
      '../../../../src/snapshot/revert/journal.ts'
    );
    const uuid = (head['uuid'] as string | undefined) ?? FAKE_UUID;
    const path = revertJournalPath(directory, uuid);
    const plan = {
      name: 's1',
      domain: 'guest1',
      uuid,
      domid: undefined,
      memoryPath: join(directory, 's1.save'),
      state: 'running',
      disks: [],
      risks: [],
      warnings: [],
      ...head,
    } as const;
    const options = { running: false, force: false, accept: [], keep: false };
    const destroys = head['destroys'] as { uuid: string; name: string } | undefined;
    const rest = destroys === undefined ? {} : { destroys };
    await (await openRevertJournal(path, plan, { options, mark: 'm1', ...rest })).keep();
    return path;
  }
  const image = (): string => join(directory, 'xvda.img');

  const cases: [string, () => Record<string, unknown>][] = [
    ['the uuid', () => ({ domain: 'former' })],
    ['the name', () => ({ uuid: other })],
    [
      'the uuid of what it destroyed',
      () => ({ uuid: other, domain: 'former', destroys: { uuid: NEW_UUID, name: 'x' } }),
    ],
    [
      'the name of what it destroyed',
      () => ({ uuid: other, domain: 'former', destroys: { uuid: other, name: 'guest1' } }),
    ],
    [
      'an image',
      () => ({
        uuid: other,
        domain: 'former',
        disks: [{ kind: 'internal', vdev: 'xvda', image: image(), tag: 's1' }],
      }),
    ],
    [
      'a base',
      () => ({
        uuid: other,
        domain: 'former',
        disks: [
          {
            kind: 'external',
            vdev: 'xvda',
            base: image(),
            baseFormat: 'qcow2',
            overlay: '/o',
            replaced: undefined,
          },
        ],
      }),
    ],
  ];

  it.each(cases)(
    'a journal is noticed if the domain has %s of it: a create warns, a revert undoes it',
    async (what, head) => {
      if (!/uuid/.test(what)) call('guest1', NEW_UUID);
      const request = await take();
      call('guest1', what === 'the uuid' ? FAKE_UUID : NEW_UUID);
      const path = await leaveJournal(head());
      const { warnings } = await planCreate(host, { domain: 'guest1', name: 's2' });
      expect(warnings).toEqual([expect.stringContaining(`xlsnap recover ${path}`)]);
      const logged: string[] = [];
      const reporter = {
        phase: () => {},
        progress: () => {},
        log: (_level: string, text: string) => logged.push(text),
      };
      await planRevert(host, request, { reporter });
      expect(logged).toEqual([expect.stringContaining('an earlier revert was killed')]);
      await revertSnapshot(host, request);
      expect(Object.keys(filesOf(directory)).filter((name) => name.endsWith('.journal'))).toEqual([]);
      expect(host.runs).toBe(true);
    },
  );

  it('is left alone if it is of another domain and other images', async () => {
    const request = await take();
    const path = await leaveJournal({ uuid: other, domain: 'former' });
    expect((await planCreate(host, { domain: 'guest1', name: 's2' })).warnings).toEqual([]);
    await revertSnapshot(host, request);
    expect(filesOf(directory)).toHaveProperty([path]);
  });

  it('is locked with the domain', async () => {
    const request = await take();
    await leaveJournal({
      uuid: other,
      domain: 'former',
      disks: [{ kind: 'internal', vdev: 'xvda', image: image(), tag: 's1' }],
    });
    const keys: string[] = [];
    const lock = host.toolstack.lock.bind(host.toolstack);
    host.toolstack.lock = (wanted, options) => {
      keys.push(...wanted);
      return lock(wanted, options);
    };
    await revertSnapshot(host, request);
    expect(keys.sort()).toEqual([other, 'former', 'guest1', FAKE_UUID].sort());
  });

  it('keeps only its own domain from being reverted if it cannot be read', async () => {
    const request = await take();
    writeFileSync(join(directory, `${other}.revert.journal`), 'damaged\n');
    const { warnings } = await planCreate(host, { domain: 'guest1', name: 's2' });
    expect(warnings).toEqual([expect.stringContaining(`${other}.revert.journal`)]);
    await revertSnapshot(host, request);
    writeFileSync(join(directory, `${FAKE_UUID}.revert.journal`), 'damaged\n');
    expect((await planCreate(host, { domain: 'guest1', name: 's2' })).warnings).toHaveLength(2);
    expect((await refused(request)).code).toBe('JOURNAL');
  });
});

it('the comment in a cfgfile is the command, quoted for a shell', async () => {
  call("it's 1");
  const { plan } = await createSnapshot(host, {
    domain: '7',
    config: { ...snapshotConfig('s1', directory, ['internal']), memoryPath: join(directory, 'a b.save') },
  });
  expect(readFileSync(plan.configPath ?? '', 'utf8')).toContain(
    `xlsnap snapshot-revert 'it'\\''s 1' '${join(directory, 'a b.save.cfg')}'\n`,
  );
});
