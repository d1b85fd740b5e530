/** Describes `xlsnap snapshot-revert` to commander. */
import { notEmpty, risks, seconds, several } from '../arguments.ts';
import type { RevertOptions } from '../commands/snapshot-revert.ts';
import type { Define } from './define.ts';
import { UNTESTED_XEN } from './untested-xen.ts';

export const defineSnapshotRevert: Define = (program, context, finish) => {
  program
    .command('snapshot-revert')
    .summary('bring a domain back to a snapshot')
    .description(
      'Destroys the domain, puts its disks back, and restores its memory. It is then as it was at the snapshot, ' +
        'running or paused. Everything is checked before the domain is destroyed.',
    )
    .argument('<domain>', 'name or domid; the domain need not be running', notEmpty)
    .argument(
      '<snapshot>',
      'its name, or the cfgfile that snapshot-create wrote beside the memory file; a word with a slash, or that is a file, is a cfgfile',
    )
    .option(
      '--dir <dir>',
      'look for the name in this directory too; may be given several times (default: only /var/lib/xen/snapshots)',
      several,
    )
    .option('--running', 'leave the domain running, whatever its state at the snapshot')
    .option('--accept <risks>', 'revert despite these risks, such as config-changed,xen-changed', risks)
    .option('--force', 'revert despite all risks')
    .option('--keep', 'keep the replaced overlays')
    .option('--timeout <seconds>', 'how long the destroy may take (default: 60)', seconds)
    .option('--dry-run', 'check everything and print the plan, without changing anything')
    .option(...UNTESTED_XEN)
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap snapshot-revert guest1 before-upgrade', 'revert the domain'],
      ['xlsnap snapshot-revert guest1 before-upgrade --dry-run', 'only show the plan'],
      ['xlsnap snapshot-revert guest1 /srv/s1.save.cfg', 'by its cfgfile'],
      ['xlsnap snapshot-revert guest1 before-upgrade --running', 'leave it running'],
    )
    .action(async (domain: string, cfgfile: string, options: RevertOptions) => {
      const { snapshotRevert } = await import('../commands/snapshot-revert.ts');
      finish(await snapshotRevert(context, domain, cfgfile, options));
    });
};
