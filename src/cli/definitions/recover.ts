import { notEmpty } from '../arguments.ts';
import type { CommonOptions } from '../session.ts';
import type { Define } from './define.ts';

export const defineRecover: Define = (program, context, finish) => {
  program
    .command('recover')
    .summary('undo what a killed snapshot-create or snapshot-revert has left')
    .description(
      'Looks for the journals of creates and reverts that were killed, or whose host went down. Of a create it undoes what had ' +
        'begun: the guest goes on as it was, and no half snapshot is left. A snapshot that is whole stays. ' +
        'Usually this has been done by itself, a moment after the create was killed. ' +
        'Of a revert it puts the disks back as they were before, unless all were as at the snapshot already: then they stay so. ' +
        'It says how the domain is, and the command that goes on.',
    )
    .argument(
      '[file]',
      'the memory file or its journal (default: all below /var/lib/xen/snapshots)',
      notEmpty,
    )
    .option('--json', 'JSON: the result on stdout, errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap recover', 'all that is in the usual place'],
      ['xlsnap recover /x/guest1.save', 'a create whose memory file is elsewhere'],
    )
    .action(async (path: string | undefined, options: CommonOptions) => {
      const { recover } = await import('../commands/recover.ts');
      finish(await recover(context, path, options));
    });
};
