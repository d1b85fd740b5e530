/** Describes `xlsnap snapshot-create` to commander. */
import { Option } from 'commander';
import { count, milliseconds, notEmpty, seconds } from '../arguments.ts';
import type { CreateOptions } from '../commands/snapshot-create.ts';
import type { Define } from './define.ts';
import { UNTESTED_XEN } from './untested-xen.ts';

export const defineSnapshotCreate: Define = (program, context, finish) => {
  program
    .command('snapshot-create')
    .summary('take a snapshot of a domain')
    .description(
      'Takes a snapshot of a running or paused domain: its memory, to a file, and its disks at the same instant. ' +
        'Without a cfgfile, the memory goes to /var/lib/xen/snapshots and each writable qcow2 disk gets an internal snapshot.',
    )
    .argument('<domain>', 'name or domid', notEmpty)
    .argument('[cfgfile]', 'name, description, memory_path and disks, in the syntax of xl.cfg')
    .option(
      '--name <name>',
      'name of the snapshot; a name in the cfgfile takes precedence (default: the time of creation)',
    )
    .option('--live', 'copy the memory while the domain runs, and stop it only for the remainder')
    .option(
      '--track',
      'with --live: leave the dirty log on, so that the next snapshot copies only what the guest has written; each first write to a page costs the guest a little (see xlsnap track)',
    )
    .option('--no-track', 'with --live: copy all memory although the domain is tracked')
    .option(
      '--max-rounds <n>',
      'with --live: maximum number of passes over the memory while the domain runs (default: 5)',
      count(49),
    )
    .option(
      '--target-downtime <time>',
      'with --live: stop the domain once the stop should take at most this long, such as 300ms or 2s (default: as short as possible)',
      milliseconds,
    )
    .option(
      '--max-downtime <time>',
      'with --live: give up rather than stop the domain for longer than this',
      milliseconds,
    )
    .addOption(new Option('--disk-only').hideHelp())
    .addOption(new Option('--tuning <words>').hideHelp())
    .option('--timeout <seconds>', 'how long to wait for the guest to suspend (default: 60)', seconds)
    .option(
      '--no-sync',
      'do not flush the memory file to disk: faster, but the snapshot is lost if the host loses power right afterwards',
    )
    .option('--dry-run', 'check everything and print the plan, without changing anything')
    .option(...UNTESTED_XEN)
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap snapshot-create guest1', 'use the defaults'],
      ['xlsnap snapshot-create guest1 --name before-upgrade', 'name the snapshot'],
      ['xlsnap snapshot-create guest1 --live', 'keep the guest running'],
      ['xlsnap snapshot-create guest1 --live --track', 'the next copies less'],
      ['xlsnap snapshot-create guest1 snap.cfg --dry-run', 'show what would be done'],
      ['xlsnap snapshot-create 7 snap.cfg --json', 'from a script, by domid'],
    )
    .action(async (domain: string, cfgfile: string | undefined, options: CreateOptions) => {
      // It starts while the rest is loaded. If the create does not get that far, it ends with this process.
      const guardian = options.dryRun === true ? undefined : context.startGuardian();
      const { snapshotCreate } = await import('../commands/snapshot-create.ts');
      finish(await snapshotCreate(context, domain, cfgfile, options, guardian));
    });
};
