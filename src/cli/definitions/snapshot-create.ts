import { Option } from 'commander';
import { count, milliseconds, notEmpty, seconds } from '../arguments.ts';
import type { CreateOptions } from '../commands/snapshot-create.ts';
import type { Define } from './define.ts';

export const defineSnapshotCreate: Define = (program, context, finish) => {
  program
    .command('snapshot-create')
    .summary('take a snapshot of a domain')
    .description(
      'Takes a snapshot of a running or paused domain: its memory into a file, its disks at the same instant. ' +
        'Without a cfgfile the memory goes to /var/lib/xen/snapshots and each writable qcow2 disk gets an internal snapshot.',
    )
    .argument('<domain>', 'name or domid', notEmpty)
    .argument('[cfgfile]', 'name, description, memory_path and disks, in the syntax of xl.cfg')
    .option('--name <name>', "name of the snapshot; the cfgfile's wins (default: the time of creation)")
    .option('--live', 'let the domain run while its memory is copied, and stop it only for the rest')
    .option(
      '--max-rounds <n>',
      'with --live: passes over the memory while the domain runs (default: 5)',
      count(49),
    )
    .option(
      '--target-downtime <time>',
      'with --live: stop the domain once that will take about so long, in ms or as 2s (default: as short as it gets)',
      milliseconds,
    )
    .option(
      '--max-downtime <time>',
      'with --live: give up, and let the domain go on, rather than stop it for longer',
      milliseconds,
    )
    .addOption(new Option('--disk-only').hideHelp())
    .addOption(new Option('--tuning <words>').hideHelp())
    .option('--timeout <seconds>', 'how long the guest may take to suspend (default: 60)', seconds)
    .option(
      '--no-sync',
      'do not wait until the memory is on the disk: faster, and lost if the host loses power now',
    )
    .option('--dry-run', 'check everything, print the plan, touch nothing')
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap snapshot-create guest1', 'everything by default'],
      ['xlsnap snapshot-create guest1 --name before-upgrade', 'with a name'],
      ['xlsnap snapshot-create guest1 --live', 'the guest hardly stops'],
      ['xlsnap snapshot-create guest1 snap.cfg --dry-run', 'what would be done'],
      ['xlsnap snapshot-create 7 snap.cfg --json', 'by domid, for a script'],
    )
    .action(async (domain: string, cfgfile: string | undefined, options: CreateOptions) => {
      const { snapshotCreate } = await import('../commands/snapshot-create.ts');
      finish(await snapshotCreate(context, domain, cfgfile, options));
    });
};
