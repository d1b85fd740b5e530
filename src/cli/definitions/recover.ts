/** Describes `xlsnap recover` to commander. */
import { notEmpty } from '../arguments.ts';
import type { CommonOptions } from '../session.ts';
import type { Define } from './define.ts';
import { UNTESTED_XEN } from './untested-xen.ts';

export const defineRecover: Define = (program, context, finish) => {
  program
    .command('recover')
    .summary('undo or finish what a killed command left behind')
    .description(
      'Looks for the journals of creates, reverts and deletes that were killed, or whose host went down. Undoes a create: ' +
        'the guest is as it was before, and no partial snapshot is left. A complete snapshot stays. ' +
        'Normally the guardian has done this already, moments after the kill. ' +
        'Undoes a revert: the disks are as they were before it, unless all of them had been reverted already; then they stay reverted. ' +
        'Finishes a delete. ' +
        'Reports the state of the domain, and the command to continue with.',
    )
    .argument(
      '[file]',
      'the memory file or its journal (default: all below /var/lib/xen/snapshots)',
      notEmpty,
    )
    .option(...UNTESTED_XEN)
    .option('--json', 'JSON: the result on stdout, errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap recover', 'everything in the default directory'],
      ['xlsnap recover /x/guest1.save', 'a create whose memory file is elsewhere'],
    )
    .action(async (path: string | undefined, options: CommonOptions) => {
      const { recover } = await import('../commands/recover.ts');
      finish(await recover(context, path, options));
    });
};
