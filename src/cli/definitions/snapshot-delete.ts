import { count, notEmpty, several } from '../arguments.ts';
import type { DeleteOptions } from '../commands/snapshot-delete.ts';
import type { Define } from './define.ts';
import { UNTESTED_XEN } from './untested-xen.ts';

/** Maximum number of snapshots to keep. */
const MAX_KEPT = 999_999;

export const defineSnapshotDelete: Define = (program, context, finish) => {
  program
    .command('snapshot-delete')
    .summary('delete snapshots of a domain')
    .description(
      'Deletes snapshots: their tags in the images, then cfgfile, memory file and manifest. The domain may run. ' +
        'What another snapshot, a domain or another program needs is refused, and nothing is changed then. ' +
        "The base and the overlay of an external snapshot are kept, since they are the domain's disk, and the manifest with them; with --merge the overlay is merged into the base. " +
        'If xlsnap is killed, the same command, or recover, deletes the rest.',
    )
    .argument('<domain>', 'name, uuid or domid; the domain need not be running', notEmpty)
    .argument(
      '[snapshots...]',
      'their names or cfgfiles; a word with a slash, or that is a file, is a cfgfile',
      several,
    )
    .option(
      '--keep <n>',
      'in place of names: delete all snapshots of the domain but this many, the newest',
      count(MAX_KEPT),
    )
    .option('--prefix <text>', 'with --keep: only snapshots whose names begin with this', notEmpty)
    .option(
      '--merge',
      'merge the overlays of external snapshots into their bases, on which the domain continues, and remove them; without names: those that earlier deletes have left',
    )
    .option(
      '--dir <dir>',
      'look for snapshots in this directory too; may be given several times (default: only /var/lib/xen/snapshots)',
      several,
    )
    .option('--dry-run', 'check everything and print what would be deleted, without changing anything')
    .option(...UNTESTED_XEN)
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap snapshot-delete guest1 before-upgrade', 'one snapshot'],
      ['xlsnap snapshot-delete guest1 a b --dry-run', 'only show what would go'],
      ['xlsnap snapshot-delete guest1 ext --merge', 'with the overlay of an external snapshot'],
      ['xlsnap snapshot-delete guest1 --merge', 'the overlays that earlier deletes have left'],
      ['xlsnap snapshot-delete guest1 --keep 7 --prefix nightly-', 'all but the newest'],
    )
    .action(async (domain: string, snapshots: readonly string[], options: DeleteOptions) => {
      const { snapshotDelete } = await import('../commands/snapshot-delete.ts');
      finish(await snapshotDelete(context, domain, snapshots, options));
    });
};
