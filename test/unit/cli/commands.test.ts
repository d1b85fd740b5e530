import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { EXIT, RiskError } from '../../../src/core/errors.ts';
import type { RecoverResult } from '../../../src/snapshot/api.ts';
import { riskNames } from '../../../src/snapshot/risks.ts';
import { createResult, plan, recoverResult, revertPlan, revertRecovered, xlsnap } from './support.ts';

let cfgfile = '';
let badCfgfile = '';
beforeAll(async () => {
  const directory = await mkdtemp(join(tmpdir(), 'xlsnap-cli-'));
  cfgfile = join(directory, 'good.cfg');
  badCfgfile = join(directory, 'bad.cfg');
  await writeFile(cfgfile, "name='from-file'\ndisks=[',,xvda']\n");
  await writeFile(badCfgfile, "nam='x'\n");
  return () => rm(directory, { recursive: true });
});

describe('snapshot-create', () => {
  test('needs only the domain', async () => {
    const { calls, code, stderr, opened, closed } = await xlsnap(['snapshot-create', 'guest1']);
    expect(calls).toEqual([{ name: 'createSnapshot', request: { domain: 'guest1' } }]);
    expect({ code, opened, closed }).toEqual({ code: 0, opened: 1, closed: 1 });
    expect(stderr).toBe('warning: disk xvdc moves on\n');
  });

  test('prints where the files are, how long the guest was stopped, and how to revert', async () => {
    const { stdout } = await xlsnap(['snapshot-create', 'guest1']);
    expect(stdout.split('\n')).toEqual([
      'Snapshot "before upgrade" of guest1 taken',
      '  memory: /var/lib/xen/snapshots/u/before upgrade.save (512 MiB, 201 MiB on disk)',
      '  copied: 3.5 MiB, written since /srv/earlier.save, which is not needed any more',
      '  disk xvda: in /d/a.qcow2',
      '  disk xvdb: /d/b.raw; the domain continues on /d/b1.qcow2',
      'The guest was stopped for 2.4 s, most of it by memory (1.9 s), after 2 rounds',
      'The guest is tracked: the next snapshot copies what it writes from now on. To end that: xlsnap track off guest1',
      "To revert: xlsnap snapshot-revert guest1 '/var/lib/xen/snapshots/u/before upgrade.save.cfg'",
      'Now change the disk line of the file that you start guest1 from: xvdb is /d/b1.qcow2. Starting it on the old image would ruin this snapshot and the disk',
      '',
    ]);
  });

  test('says why all memory was copied, and that tracking has ended', async () => {
    const result = {
      ...createResult,
      tracked: { full: 'LOG_BROKEN' as const, message: 'another program used the log' },
      tracking: false,
    };
    const { stdout } = await xlsnap(['snapshot-create', 'guest1'], {
      calls: { createSnapshot: async () => result },
    });
    expect(stdout).toContain('\n  copied: all memory, since another program used the log\n');
    expect(stdout).toContain('\nThe guest is not tracked any more: the next snapshot copies all memory\n');
  });

  test.each([
    [['--track'], true],
    [['--no-track'], false],
    [[], undefined],
  ])("%j is the request's track", async (options, track) => {
    const { calls } = await xlsnap(['snapshot-create', 'guest1', '--live', ...options]);
    expect(calls[0]?.request).toMatchObject({ live: true, track });
  });

  test('takes a cfgfile, --name and --timeout', async () => {
    const { calls, stderr } = await xlsnap([
      'snapshot-create',
      '7',
      cfgfile,
      '--name',
      'mine',
      '--timeout',
      '2.5',
    ]);
    expect(calls[0]?.request).toEqual({
      domain: '7',
      config: { name: 'from-file', disks: [{ kind: 'internal', target: 'xvda' }], source: cfgfile },
      name: 'mine',
      suspendTimeoutMs: 2500,
    });
    expect(stderr).toContain('the name in the cfgfile, "from-file"');
  });

  test.each([
    [[], {}],
    [['--live'], { live: true }],
    [['--no-sync'], { sync: false }],
    [
      ['--live', '--max-rounds', '9', '--target-downtime', '1.5ms', '--max-downtime', '2s'],
      { live: true, maxRounds: 9, targetDowntimeMs: 1.5, maxDowntimeMs: 2000 },
    ],
    [['--live', '--max-downtime', '300ms'], { live: true, maxDowntimeMs: 300 }],
  ])('%j', async (args, request) => {
    const { calls } = await xlsnap(['snapshot-create', '7', ...args]);
    expect(calls[0]?.request).toEqual({ domain: '7', ...request });
  });

  test('prints the plan and creates nothing with --dry-run', async () => {
    const { stdout, calls } = await xlsnap(['snapshot-create', 'guest1', '--dry-run']);
    expect(calls.map((call) => call.name)).toEqual(['planCreate']);
    for (const part of [
      plan.memoryPath,
      plan.configPath,
      'tag "before upgrade" in /d/a.qcow2',
      '/d/b1.qcow2',
      'xvdc',
      'at most 5 rounds',
      'about 300 ms',
    ]) {
      expect(stdout).toContain(part);
    }
    const json = await xlsnap(['snapshot-create', 'guest1', '--dry-run', '--json']);
    expect(JSON.parse(json.stdout)).toMatchObject({
      message_type: 'create_plan',
      memory_path: plan.memoryPath,
      disks: [{ kind: 'internal' }, { base_format: 'raw' }],
    });
  });

  test('prints one line with --json', async () => {
    const { stdout, stderr } = await xlsnap(['snapshot-create', 'guest1', '--json']);
    expect(stdout.trimEnd().split('\n')).toHaveLength(1);
    expect(JSON.parse(stdout)).toMatchObject({
      message_type: 'create_result',
      downtime_seconds: 2.4,
      plan: { config_path: plan.configPath },
      phases: expect.arrayContaining([{ name: 'memory', start_seconds: 14, seconds: 1.9 }]),
    });
    expect(JSON.parse(stderr)).toEqual({
      message_type: 'log',
      level: 'warning',
      message: 'disk xvdc moves on',
    });
  });

  test('prints the result on stderr if stdout has the memory', async () => {
    const { configPath: _cfg, manifestPath: _manifest, ...rest } = createResult.plan;
    const streamed = { ...createResult, plan: { ...rest, stream: true, memoryPath: '/dev/stdout' } };
    const world = { calls: { createSnapshot: () => Promise.resolve(streamed) } };
    const text = await xlsnap(['snapshot-create', 'guest1'], world);
    expect(text.stdout).toBe('');
    expect(text.stderr).toContain('memory: /dev/stdout (a stream of 512 MiB)');
    expect(text.stderr).toContain('man xlsnap.cfg');
    const json = await xlsnap(['snapshot-create', 'guest1', '--json'], world);
    expect(json.stdout).toBe('');
    const last = json.stderr.trimEnd().split('\n').at(-1) ?? '';
    expect(JSON.parse(last)).toMatchObject({ message_type: 'create_result', plan: { stream: true } });
  });

  test('prints a warning of the plan once, before the work', async () => {
    let before = '';
    const { stderr } = await xlsnap(['snapshot-create', 'guest1'], {
      calls: {
        createSnapshot: async (_host, _request, options) => {
          options.reporter?.log('warning', 'disk xvdc moves on');
          before = 'logged';
          return (await import('./support.ts')).createResult;
        },
      },
    });
    expect(before).toBe('logged');
    expect(stderr.match(/xvdc moves on/g)).toHaveLength(1);
  });

  test("cannot make a guest's name control the terminal", async () => {
    const { stdout } = await xlsnap(['snapshot-create', 'guest1', '--dry-run'], {
      calls: { planCreate: () => Promise.resolve({ ...plan, domain: 'g\x1b[2J' }) },
    });
    expect(stdout).toContain('domain g?[2J');
  });
});

describe('snapshot-revert', () => {
  test('takes all options', async () => {
    const { calls, code, stdout, stderr } = await xlsnap([
      'snapshot-revert',
      'guest1',
      cfgfile,
      '--running',
      '--force',
      '--keep',
      '--timeout',
      '9',
      '--accept',
      'config-changed,xen-changed',
      '--accept',
      'no-manifest,config-changed',
      '-q',
    ]);
    expect(calls).toEqual([
      {
        name: 'revertSnapshot',
        request: {
          domain: 'guest1',
          config: { name: 'from-file', disks: [{ kind: 'internal', target: 'xvda' }], source: cfgfile },
          running: true,
          force: true,
          accept: ['config-changed', 'xen-changed', 'no-manifest'],
          keep: true,
          timeoutMs: 9000,
          otherOptions: ['--quiet'],
        },
      },
    ]);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^Domain guest1 is back at snapshot "before upgrade": domid 8, paused, after 3\.4 s\n/,
    );
    expect(stdout).toContain('kept: /d/b1.qcow2.kept');
    expect(stdout).toContain('\nThe domain was away for 3.1 s\n');
    expect(stdout).toContain('To run it: xl unpause 8');
    expect(stderr).toBe(
      'warning: config-changed: the configuration changed\nwarning: a safety tag is left\n',
    );
  });

  test.each(['xen-changed,nonsense', '', 'XEN-CHANGED', 'constructor'])(
    'refuses an --accept of %j as a usage error, and lists the risks',
    async (accept) => {
      const { code, stderr, calls } = await xlsnap([
        'snapshot-revert',
        'guest1',
        cfgfile,
        '--accept',
        accept,
      ]);
      expect({ code, calls }).toEqual({ code: 2, calls: [] });
      for (const name of riskNames()) expect(stderr).toContain(name);
    },
  );

  test('ends a risky revert with the command that accepts the risks, in one line however long', async () => {
    const command = `xlsnap snapshot-revert guest1 /srv/${'long/'.repeat(30)}s.cfg --accept xen-changed`;
    const risks = [{ risk: 'xen-changed', message: 'another Xen' }];
    const { code, stderr } = await xlsnap(['snapshot-revert', 'guest1', cfgfile], {
      tty: true,
      calls: {
        revertSnapshot: () => Promise.reject(new RiskError('RISKY', 'risky', { data: { risks, command } })),
      },
    });
    expect(code).toBe(10);
    expect(stderr.split('\n')).toContain(`    ${command}`);
  });

  test('repeats in that command the options that do not concern the revert', async () => {
    const { calls } = await xlsnap(['snapshot-revert', 'guest1', cfgfile, '--dry-run', '--json', '-q']);
    expect(calls).toMatchObject([{ request: { otherOptions: ['--dry-run', '--json', '--quiet'] } }]);
  });

  test('prints the plan with --dry-run also if it is risky, and what would be lost', async () => {
    const plan = { ...revertPlan, created: '2026-11-24T20:15:30.000Z' };
    const risky = () => Promise.reject(new RiskError('RISKY', 'risky', { data: { plan } }));
    const args = ['snapshot-revert', 'guest1', cfgfile, '--dry-run'];
    const { code, stdout, stderr } = await xlsnap(args, { calls: { planRevert: risky } });
    expect(code).toBe(10);
    expect(stdout).toMatch(/\n {2}lost: what the guest wrote since 2026-11-2\d \d\d:15:30\n/);
    expect(stdout).toContain('Dry run: nothing was changed.\n');
    expect(stderr).toBe('error: risky\n');
    const json = await xlsnap([...args, '--json'], { calls: { planRevert: risky } });
    expect(json.stdout).toBe('');
    expect(JSON.parse(json.stderr)).toMatchObject({ data: { plan: { created: plan.created } } });
  });

  test('prints the plan with --dry-run', async () => {
    const { stdout, calls } = await xlsnap(['snapshot-revert', 'guest1', cfgfile, '--dry-run']);
    expect(calls.map((call) => call.name)).toEqual(['planRevert']);
    for (const part of [
      'domid 7 will be destroyed',
      revertPlan.memoryPath,
      'tag "before upgrade" of /d/a.qcow2',
      'risk: config-changed: ',
    ]) {
      expect(stdout).toContain(part);
    }
    const json = await xlsnap(['snapshot-revert', 'guest1', cfgfile, '--dry-run', '--json']);
    expect(JSON.parse(json.stdout)).toMatchObject({ message_type: 'revert_plan', domid: 7 });
    const result = await xlsnap(['snapshot-revert', 'guest1', cfgfile, '--json']);
    expect(JSON.parse(result.stdout)).toMatchObject({ message_type: 'revert_result', domid: 8 });
  });
});

describe('recover', () => {
  const texts = async (...recovered: RecoverResult[]): Promise<string[]> => {
    const { stdout } = await xlsnap(['recover'], { calls: { recoverAll: async () => recovered } });
    return stdout.split('\n').slice(0, -1);
  };

  test('says of a create whether it is undone, and how the guest is', async () => {
    expect(await texts(recoverResult, { ...recoverResult, outcome: 'whole', undone: [] })).toEqual([
      'Snapshot "before upgrade" of guest1: was incomplete, and has been undone; the domain is running',
      '  resumed the guest',
      'Snapshot "before upgrade" of guest1: is complete, and stays; the domain is running',
    ]);
  });

  test('says of a revert how disks and domain are, and what continues it', async () => {
    expect(await texts(revertRecovered)).toEqual([
      'Revert of guest1 to "before upgrade": was half done: the disks are as at the snapshot, but the memory has not been restored; the domain is paused',
      '  removed the safety tag of disk xvda',
      '  kept: /d/b1.qcow2.before-1',
      '  domid 9 is what the restore created, perhaps only partly: continue, or xl destroy 9',
      'To continue: xlsnap snapshot-revert guest1 /x/s.save.cfg --keep',
    ]);
    const { halfBuilt: _, next: __, ...rest } = revertRecovered;
    const undone = { ...rest, outcome: 'undone', guest: 'gone', undone: [], kept: [] } as const;
    expect(await texts(undone)).toEqual([
      'Revert of guest1 to "before upgrade": has been undone: the disks are as they were before; the domain is gone',
      'To continue: run the same snapshot-revert again',
      'Or stop here: xl create starts guest1 with its disks as before',
    ]);
    expect(await texts({ ...undone, outcome: 'whole', guest: 'running' })).toEqual([
      'Revert of guest1 to "before upgrade": had been completed; the domain is running',
    ]);
  });

  test('says when there is nothing to do', async () => {
    expect((await texts())[0]).toMatch(/^Nothing to recover/);
    const path = '/x/a.save';
    const nothing = { journal: `${path}.journal`, outcome: 'nothing', undone: [] } as const;
    const { stdout, calls } = await xlsnap(['recover', path], {
      calls: { recoverSnapshot: async () => nothing },
    });
    expect(stdout).toBe('Nothing to undo: there is no journal /x/a.save.journal\n');
    expect(calls).toEqual([{ name: 'recoverSnapshot', request: { path } }]);
  });
});

describe('wrong arguments open nothing', () => {
  test.each([
    [['snapshot-create'], EXIT.usage, /missing required argument 'domain'/],
    [['snapshot-create', ''], EXIT.usage, /domain.*empty/],
    [['snapshot-create', 'a', 'b', 'c'], EXIT.usage, /too many arguments/],
    [['snapshot-create', 'a', '--nam', 'x'], EXIT.usage, /unknown option '--nam'[\s\S]*--name/],
    [['snapshot-create', 'a', '--disk-only'], EXIT.usage, /disks alone are not supported/],
    [['snapshot-create', 'a', '--live', '--max-rounds', '0'], EXIT.usage, /from 1 to 49/],
    [['snapshot-create', 'a', '--live', '--max-rounds', '50'], EXIT.usage, /from 1 to 49/],
    [['bench', 'a', '--rounds', '100'], EXIT.usage, /from 1 to 99/],
    [['snapshot-create', 'a', '--live', '--max-downtime', '2m'], EXIT.usage, /300ms or 2s/],
    [['snapshot-create', 'a', '--live', '--target-downtime', ''], EXIT.usage, /300ms or 2s/],
    [['snapshot-create', 'a', '--live', '--target-downtime', '9999999s'], EXIT.usage, /300ms or 2s/],
    [['snapshot-create', 'a', '--name', '1'], EXIT.usage, /--name: .*only digits/],
    [['snapshot-create', 'a', '--timeout', '0'], EXIT.usage, /Expected seconds/],
    [['snapshot-create', 'a', '--timeout', '1e3'], EXIT.usage, /Expected seconds/],
    [['snapshot-create', 'a', '--timeout', '99999999'], EXIT.usage, /Expected seconds/],
    [['snapshot-create', 'a', '/nowhere/x.cfg'], EXIT.config, /\/nowhere\/x\.cfg: there is no such file/],
    [['snapshot-revert', 'a'], EXIT.usage, /missing required argument 'snapshot'/],
    [['snapshot-crate', 'a'], EXIT.usage, /unknown command 'snapshot-crate'[\s\S]*snapshot-create/],
    [[], EXIT.usage, /Usage: xlsnap/],
  ])('%j', async (args, code, message) => {
    const text = await xlsnap(args);
    expect(text).toMatchObject({ code, stdout: '', opened: 0, calls: [] });
    expect(text.stderr).toMatch(message);
    if (args.length === 0) return;
    expect(text.stderr).toMatch(/^error: (?!error)/);
    const json = await xlsnap([...args, '--json']);
    expect(JSON.parse(json.stderr)).toMatchObject({ message_type: 'error', exit_code: code });
  });

  test('a cfgfile with an error is shown with file, line and column', async () => {
    const { code, stderr, opened } = await xlsnap(['snapshot-revert', 'guest1', badCfgfile]);
    expect({ code, opened }).toEqual({ code: EXIT.config, opened: 0 });
    expect(stderr).toBe(
      `error: ${badCfgfile}:1:1: unknown key nam\n1 | nam='x'\n  | ^\n  next: did you mean name?\n`,
    );
  });
});

describe('track off', () => {
  test('ends the tracking of a domain', async () => {
    const { code, stdout, calls } = await xlsnap(['track', 'off', 'guest1']);
    expect({ code, calls }).toMatchObject({ code: 0, calls: [{ name: 'stopTracking', request: 'guest1' }] });
    expect(stdout).toBe(
      'Domain guest1 is not tracked any more: the next snapshot copies all of its memory\n',
    );
  });

  test('prints JSON, and knows no other word', async () => {
    const { stdout } = await xlsnap(['track', 'off', 'guest1', '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ message_type: 'track_off_result', tracked: true });
    expect((await xlsnap(['track', 'on', 'guest1'])).code).toBe(2);
  });
});

describe('help', () => {
  test('ends with the exit codes', async () => {
    const { code, stdout, stderr } = await xlsnap(['--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const exit of Object.values(EXIT)) expect(stdout).toMatch(new RegExp(`^ +${exit}  \\S`, 'm'));
  });

  test.each(['snapshot-create', 'snapshot-revert'])('%s has examples that parse', async (command) => {
    const { code, stdout } = await xlsnap([command, '--help']);
    expect(code).toBe(0);
    const shown = [...stdout.matchAll(/^ {2}xlsnap (.*?) +# /gm)].map(([, args]) => args?.split(' ') ?? []);
    expect(shown.length).toBeGreaterThan(1);
    for (const args of shown) {
      // Their cfgfiles do not exist; the arguments are valid.
      const outcome = await xlsnap(args);
      expect([EXIT.ok, EXIT.config]).toContain(outcome.code);
    }
  });

  test('and --version prints the version', async () => {
    expect(await xlsnap(['--version'])).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/),
    });
  });
});
