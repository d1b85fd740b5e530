import { describe, expect, test } from 'vitest';
import { snapshotListText } from '../../../src/cli/list-text.ts';
import { UsageError } from '../../../src/core/errors.ts';
import type { Host } from '../../../src/snapshot/ports.ts';
import { snapshotList, xlsnap } from './support.ts';

describe('snapshot-list', () => {
  test('asks for all snapshots, and opens no host', async () => {
    const { calls, code, opened } = await xlsnap(['snapshot-list']);
    expect(calls).toEqual([{ name: 'listSnapshots', request: {} }]);
    expect({ code, opened }).toEqual({ code: 0, opened: 0 });
  });

  test('takes a domain and any number of directories', async () => {
    const args = ['snapshot-list', 'guest1', '--dir', '/a', '--dir', '/b'];
    const { calls, opened } = await xlsnap(args);
    expect(calls[0]?.request).toEqual({ domain: 'guest1', keys: [], directories: ['/a', '/b'] });
    expect(opened).toBe(0);
  });

  test('a domid means the domain that has it', async () => {
    const host = {
      toolstack: { findDomain: () => Promise.resolve(7) },
      hypervisor: { domainState: () => Promise.resolve({ name: 'guest1', uuid: 'u' }) },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    const openHost = () => Promise.resolve(host as object as Host);
    const { calls } = await xlsnap(['snapshot-list', '7'], { openHost });
    expect(calls[0]?.request).toEqual({ domain: '7', keys: ['guest1', 'u'] });
  });

  test('without Xen, a number is a name', async () => {
    const openHost = () => Promise.reject(new Error('no Xen'));
    const { calls, code } = await xlsnap(['snapshot-list', '7'], { openHost });
    expect(calls[0]?.request).toEqual({ domain: '7', keys: [] });
    expect(code).toBe(0);
  });

  test('--json prints one line', async () => {
    const { stdout, stderr } = await xlsnap(['snapshot-list', '--json']);
    expect(stdout.trimEnd().split('\n')).toHaveLength(1);
    expect(stderr).toBe('');
    expect(JSON.parse(stdout)).toMatchObject({
      message_type: 'snapshot_list',
      snapshots: [
        { name: 'gone', revert: 'impossible', problems: [{ code: 'NO_TAG' }] },
        { memory_path: '/var/lib/xen/snapshots/u/before upgrade.save', risks: [{ risk: 'base-written' }] },
        { name: 'new', allocated_bytes: 307200 },
      ],
      damaged: [{ name: 'torn' }],
    });
  });

  test('--names prints names only, for completions', async () => {
    const { calls, stdout } = await xlsnap(['snapshot-list', 'guest1', '--names']);
    expect(calls.map(({ name }) => name)).toEqual(['snapshotNames']);
    expect(stdout).toBe('new\nbefore upgrade\n');
  });

  test('an error has its exit code', async () => {
    const listSnapshots = () => Promise.reject(new UsageError('NO_DIRECTORY', 'there is no directory /x'));
    const { code, stderr } = await xlsnap(['snapshot-list', '--dir', '/x'], { calls: { listSnapshots } });
    expect({ code, stderr }).toEqual({ code: 2, stderr: 'error: there is no directory /x\n' });
  });
});

describe('the table', () => {
  const clock = (iso: string): string => {
    const time = new Date(iso);
    return `${time.getFullYear()}-${time.getMonth() + 1}-${time.getDate()} `;
  };

  test('has a line for each snapshot, newest last, and the reasons below it', () => {
    const lines = snapshotListText(snapshotList, undefined).split('\n');
    expect(lines[0]).toMatch(/^DOMAIN {2}NAME {12}CREATED {14}STATE {4}MEMORY {3}DISKS {25}REVERT$/);
    expect(lines[1]).toMatch(/^guest1 {2}torn {12}\? {20}.* no$/);
    expect(lines[2]).toBe('  the manifest /srv/torn.save.json is not JSON');
    expect(lines[3]).toMatch(/^guest1 {2}gone .* running {2}missing {2}xvda internal, xvdb external {2}no$/);
    expect(lines[4]).toBe('  disk xvda: there is no such tag (it has none)');
    expect(lines[5]).toContain(clock('2026-11-24T20:15:30.000Z'));
    expect(lines[5]).toMatch(/^guest1 {2}before upgrade .* paused {3}201 MiB .* risky$/);
    expect(lines[6]).toBe('  base-written: /d/b.raw was written to');
    expect(lines[7]).toMatch(/^guest1 {2}new .* running {2}300 KiB {2}none {26}yes$/);
    expect(lines).toHaveLength(8);
  });

  test.each([20, 40, 60])('fits a terminal of %i columns', (columns) => {
    const lines = snapshotListText(snapshotList, columns).split('\n');
    // Paths are not broken.
    expect(lines.filter((line) => line.length > Math.max(columns, 28))).toEqual([]);
    const text = lines.join(' ').replaceAll(/\s+/g, ' ');
    for (const part of ['guest1 new', 'memory: 300 KiB', 'revert: yes', 'base-written:']) {
      expect(text).toContain(part);
    }
  });

  test('has what only a snapshot has, if any shares blocks with others, in 80 columns', () => {
    const [gone, paused, last] = snapshotList.snapshots;
    if (gone === undefined || paused === undefined || last === undefined) throw new Error('no samples');
    const some = [
      { ...gone, disks: [] },
      { ...last, sharedBytes: 200 * 1024, ownBytes: 100 * 1024 },
    ];
    const lines = snapshotListText({ ...snapshotList, snapshots: some, damaged: [] }, 80).split('\n');
    expect(lines[0]).toMatch(/ MEMORY {3}OWN {6}DISKS {2}REVERT$/);
    expect(lines[1]).toMatch(/ missing {2}\? {8}none {3}no$/);
    expect(lines.at(-1)).toMatch(/ 300 KiB {2}100 KiB {2}none {3}yes$/);
    const unshared = [{ ...last, sharedBytes: 0, ownBytes: 300 * 1024 }];
    expect(snapshotListText({ ...snapshotList, snapshots: unshared }, 80)).not.toContain('OWN');
    const narrow = snapshotListText({ ...snapshotList, snapshots: some }, 30);
    expect(narrow).toContain('\n  own: 100 KiB\n');
  });

  test('says where it looked if there is nothing', () => {
    const nothing = { directories: ['/a', '/b'], snapshots: [], damaged: [] };
    for (const line of snapshotListText(nothing, 40).split('\n')) expect(line.length).toBeLessThanOrEqual(40);
    const text = snapshotListText(nothing, 80);
    expect(text).toBe('No snapshots in /a, /b. For another place: xlsnap snapshot-list --dir DIR');
  });
});

describe('snapshot-revert by name', () => {
  test('asks for the snapshot of that name, and reverts to it', async () => {
    const { calls, code } = await xlsnap(['snapshot-revert', 'guest1', 'by name', '--dir', '/srv']);
    expect(code).toBe(0);
    expect(calls).toMatchObject([
      {
        name: 'findSnapshotConfig',
        request: { domain: 'guest1', name: 'by name', directories: ['/srv'] },
      },
      {
        name: 'revertSnapshot',
        request: { domain: 'guest1', config: { name: 'by name', memoryPath: '/srv/by name.save' } },
      },
    ]);
  });

  test.each(['package.json', '/nonexistent', './nonexistent'])('%s is a cfgfile', async (path) => {
    const { calls, code } = await xlsnap(['snapshot-revert', 'guest1', path]);
    expect(calls).toEqual([]);
    expect(code).toBe(3);
  });
});
