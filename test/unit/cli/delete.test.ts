import { describe, expect, test } from 'vitest';
import { PartialError, PreflightError } from '../../../src/core/errors.ts';
import { deletePlan, deleteResult, xlsnap } from './support.ts';

describe('snapshot-delete', () => {
  test('names', async () => {
    const { calls, code, opened, closed } = await xlsnap(['snapshot-delete', 'guest1', 'a', 'b']);
    expect(calls).toEqual([
      { name: 'deleteSnapshots', request: { domain: 'guest1', snapshots: ['a', 'b'] } },
    ]);
    expect({ code, opened, closed }).toEqual({ code: 0, opened: 1, closed: 1 });
  });

  test('a cfgfile', async () => {
    const { calls } = await xlsnap(['snapshot-delete', 'guest1', '/dev/null', 'a']);
    expect(calls[0]?.request).toEqual({ domain: 'guest1', snapshots: [{ source: '/dev/null' }, 'a'] });
    expect((await xlsnap(['snapshot-delete', 'guest1', '/nonexistent'])).code).toBe(3);
  });

  test('--keep, --prefix and --dir', async () => {
    const args = ['snapshot-delete', '7', '--keep', '3', '--prefix', 'n-', '--dir', '/a', '--dir', '/b'];
    const { calls } = await xlsnap(args);
    expect(calls[0]?.request).toEqual({
      domain: '7',
      snapshots: [],
      keep: 3,
      prefix: 'n-',
      directories: ['/a', '/b'],
    });
  });

  test.each([
    ['--keep', '0'],
    ['--keep', 'x'],
    ['--prefix', ''],
  ])('%s %j is refused', async (...args) => {
    const { code, calls } = await xlsnap(['snapshot-delete', 'guest1', ...args]);
    expect({ code, calls }).toEqual({ code: 2, calls: [] });
  });

  test('--dry-run says what would go and what not, and deletes nothing', async () => {
    const { stdout, calls } = await xlsnap(['snapshot-delete', 'guest1', 'a', '--dry-run']);
    expect(calls.map(({ name }) => name)).toEqual(['planDelete']);
    const path = '/var/lib/xen/snapshots/u/before upgrade.save';
    expect(stdout.split('\n')).toEqual([
      'First, the delete that was killed is finished: /srv/half.save.journal',
      'Snapshot "before upgrade" of guest1 would be deleted',
      '  disk xvda: tag "before upgrade" of /d/a.qcow2',
      '  disk xvdb: kept: domain guest1 (domid 7) uses /d/b1.qcow2, which depends on /d/b.raw',
      `  ${path}.cfg`,
      `  ${path}`,
      `  ${path}.json`,
      '  the files take 201 MiB',
      'Snapshot "old" cannot be deleted now',
      '  disk xvda: it is in use (shut it down first)',
      'warning: a journal cannot be read',
      'Dry run: nothing was changed.',
      '',
    ]);
  });

  test('says what was deleted, and what was kept', async () => {
    const { stdout, stderr } = await xlsnap(['snapshot-delete', 'guest1', 'a']);
    expect(stdout.split('\n')).toEqual([
      'Snapshot "half": the delete that was killed is finished',
      '  removed /srv/half.save',
      'Snapshot "before upgrade" of guest1 deleted',
      '  disk xvdb: kept: domain guest1 (domid 7) uses /d/b1.qcow2, which depends on /d/b.raw',
      '1 snapshot deleted; the files took 201 MiB',
      '',
    ]);
    expect(stderr).toBe('warning: a journal cannot be read\n');
  });

  test('--merge, and what to change then', async () => {
    const disks = [
      { kind: 'external', vdev: 'xvda', base: '/d/a1.qcow2', overlay: '/d/a2.qcow2', action: 'merge' },
    ] as const;
    const [first] = deletePlan.snapshots;
    if (first === undefined) throw new Error('no sample');
    const below = [{ ...disks[0], base: '/d/a.qcow2', overlay: '/d/a1.qcow2' }];
    const plan = {
      ...deletePlan,
      unfinished: [],
      refused: [],
      warnings: [],
      snapshots: [
        { ...first, files: [], disks },
        { ...first, files: [], name: 'old', disks: below },
      ],
    };
    const planned = { planDelete: () => Promise.resolve(plan) };
    const args = ['snapshot-delete', 'guest1', 'a', '--merge'];
    expect((await xlsnap([...args, '--dry-run'], { calls: planned })).stdout.split('\n')).toEqual([
      'Snapshot "before upgrade" of guest1 would be deleted',
      '  disk xvda: /d/a2.qcow2, merged into /d/a1.qcow2',
      '  the files take 201 MiB',
      'Snapshot "old" of guest1 would be deleted',
      '  disk xvda: /d/a1.qcow2, merged into /d/a.qcow2',
      '  the files take 201 MiB',
      'Then change the disk line of the file that you start guest1 from: xvda is /d/a.qcow2',
      'Dry run: nothing was changed.',
      '',
    ]);
    const result = { ...deleteResult, finished: [], warnings: [], plan };
    const merged = { deleteSnapshots: () => Promise.resolve(result) };
    expect((await xlsnap(args, { calls: merged })).stdout.split('\n')).toEqual([
      'Snapshot "before upgrade" of guest1 deleted',
      '  disk xvda: /d/a2.qcow2 merged into /d/a1.qcow2',
      'Snapshot "old" of guest1 deleted',
      '  disk xvda: /d/a1.qcow2 merged into /d/a.qcow2',
      '2 snapshots deleted; the files took 402 MiB',
      'Now change the disk line of the file that you start guest1 from: xvda is /d/a.qcow2',
      '',
    ]);
    expect((await xlsnap(args)).calls[0]?.request).toMatchObject({ snapshots: ['a'], merge: true });
  });

  test('--merge without names, and how to merge what is kept', async () => {
    expect((await xlsnap(['snapshot-delete', 'guest1', '--merge'])).calls[0]?.request).toEqual({
      domain: 'guest1',
      snapshots: [],
      merge: true,
    });
    const [first] = deletePlan.snapshots;
    if (first === undefined) throw new Error('no sample');
    const own = { ...first, keptManifest: `${first.memoryPath}.json` };
    const elsewhere = { ...own, memoryPath: '/srv/my snapshots/x.save' };
    for (const [snapshots, options] of [
      [[own], ''],
      [[own, elsewhere, elsewhere], " --dir '/srv/my snapshots'"],
    ] as const) {
      const plan = { ...deletePlan, unfinished: [], refused: [], warnings: [], snapshots };
      const calls = {
        planDelete: () => Promise.resolve(plan),
        deleteSnapshots: () => Promise.resolve({ ...deleteResult, finished: [], warnings: [], plan }),
      };
      const last = `To merge what is kept, once no snapshot needs it: xlsnap snapshot-delete guest1 --merge${options}`;
      const { stdout } = await xlsnap(['snapshot-delete', 'guest1', 'a'], { calls });
      expect(stdout.trimEnd().split('\n').at(-1)).toBe(last);
      const dry = await xlsnap(['snapshot-delete', 'guest1', 'a', '--dry-run'], { calls });
      expect(dry.stdout.split('\n')).toContain(last);
    }
  });

  test('says what had been deleted before an error', async () => {
    const error = new PartialError('NOT_ALL_DELETED', '1 of 2 snapshots cannot be deleted now');
    error.done = ['deleted snapshot "b"'];
    const calls = { deleteSnapshots: () => Promise.reject(error) };
    const { code, stderr } = await xlsnap(['snapshot-delete', 'guest1', '--keep', '1'], { calls });
    expect({ code, stderr }).toEqual({
      code: 15,
      stderr: 'error: 1 of 2 snapshots cannot be deleted now\n  done: deleted snapshot "b"\n',
    });
  });

  test('says that there was nothing', async () => {
    const nothing = { ...deleteResult, finished: [], plan: { ...deletePlan, snapshots: [] } };
    const calls = { deleteSnapshots: () => Promise.resolve(nothing) };
    const { stdout } = await xlsnap(['snapshot-delete', 'guest1', '--keep', '3'], { calls });
    expect(stdout).toBe('There was nothing to delete\n');
  });

  test('--json prints one line', async () => {
    const { stdout } = await xlsnap(['snapshot-delete', 'guest1', 'a', '--json']);
    expect(stdout.trimEnd().split('\n')).toHaveLength(1);
    expect(JSON.parse(stdout)).toMatchObject({
      message_type: 'delete_result',
      plan: { snapshots: [{ memory_path: deletePlan.snapshots[0]?.memoryPath }] },
      finished: [{ outcome: 'deleted' }],
    });
  });

  test('an error has its exit code', async () => {
    const error = new PreflightError('SNAPSHOT_NEEDED', 'it is needed', { hint: 'delete that one first' });
    const calls = { deleteSnapshots: () => Promise.reject(error) };
    const { code, stderr } = await xlsnap(['snapshot-delete', 'guest1', 'a'], { calls });
    expect({ code, stderr }).toEqual({
      code: 5,
      stderr: 'error: it is needed\n  next: delete that one first\n',
    });
  });
});
