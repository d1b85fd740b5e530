/** Describes `xlsnap track` to commander. */
import { Argument } from 'commander';
import { notEmpty } from '../arguments.ts';
import type { CommonOptions } from '../session.ts';
import type { Define } from './define.ts';
import { UNTESTED_XEN } from './untested-xen.ts';

export const defineTrack: Define = (program, context, finish) => {
  program
    .command('track')
    .summary('end what snapshot-create --track has begun')
    .description(
      "Turns off the dirty log that snapshot-create --track has left on. The guest's writes then cost nothing any more, and the " +
        'next snapshot copies all memory. Does no harm to a domain that is not tracked. No snapshot is changed.',
    )
    .addArgument(new Argument('<what>', 'what to do').choices(['off']))
    .argument('<domain>', 'name or domid', notEmpty)
    .option(...UNTESTED_XEN)
    .option('--json', 'JSON: the result on stdout, errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(['xlsnap track off guest1', 'after the last of a series of snapshots'])
    .action(async (_what: string, domain: string, options: CommonOptions) => {
      const { trackOff } = await import('../commands/track.ts');
      finish(await trackOff(context, domain, options));
    });
};
