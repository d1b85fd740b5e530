import { notEmpty, risks, seconds } from '../arguments.ts';
import type { RevertOptions } from '../commands/snapshot-revert.ts';
import type { Define } from './define.ts';

export const defineSnapshotRevert: Define = (program, context, finish) => {
  program
    .command('snapshot-revert')
    .summary('bring a domain back to a snapshot')
    .description(
      'Destroys the domain, puts its disks back, and restores its memory. It is then as it was at the snapshot, ' +
        'running or paused. Everything is checked before anything is destroyed.',
    )
    .argument('<domain>', 'name or domid; the domain need not run', notEmpty)
    .argument('<cfgfile>', 'the one that snapshot-create wrote beside the memory file')
    .option('--running', 'let the domain run, whatever its state at the snapshot')
    .option(
      '--accept <risks>',
      'revert although there are these risks, such as config-changed,xen-changed',
      risks,
    )
    .option('--force', 'revert although it is risky, whatever the risks are')
    .option('--keep', 'keep the overlays that are replaced')
    .option('--timeout <seconds>', 'how long destroying may take (default: 60)', seconds)
    .option('--dry-run', 'check everything, print the plan, touch nothing')
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap snapshot-revert guest1 before.save.cfg', 'back to it'],
      ['xlsnap snapshot-revert guest1 before.save.cfg --dry-run', 'what would be done'],
      ['xlsnap snapshot-revert guest1 before.save.cfg --running', 'and let it run'],
    )
    .action(async (domain: string, cfgfile: string, options: RevertOptions) => {
      const { snapshotRevert } = await import('../commands/snapshot-revert.ts');
      finish(await snapshotRevert(context, domain, cfgfile, options));
    });
};
