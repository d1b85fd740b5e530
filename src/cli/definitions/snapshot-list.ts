import { notEmpty, several } from '../arguments.ts';
import type { ListOptions } from '../commands/snapshot-list.ts';
import type { Define } from './define.ts';
import { UNTESTED_XEN } from './untested-xen.ts';

export const defineSnapshotList: Define = (program, context, finish) => {
  program
    .command('snapshot-list')
    .summary('list the snapshots there are')
    .description(
      'Lists snapshots by their manifests, newest last, with whether each can be reverted to now, and why not. ' +
        'Neither Xen nor the domain need be running. A revert checks more: the checksums of the memory file, ' +
        "the host, and the domain's configuration.",
    )
    .argument('[domain]', 'name, uuid or domid of the only domain to list (default: all)', notEmpty)
    .option(
      '--dir <dir>',
      'look in this directory too, and in those right below; may be given several times (default: only /var/lib/xen/snapshots)',
      several,
    )
    .option('--names', 'only the names, newest first, one a line, without any check')
    .option(...UNTESTED_XEN)
    .option('--json', 'JSON: the list on stdout, errors on stderr')
    .addExamples(
      ['xlsnap snapshot-list', 'all snapshots in /var/lib/xen/snapshots'],
      ['xlsnap snapshot-list guest1', 'those of one domain'],
      ['xlsnap snapshot-list --dir /srv/snapshots', 'in another directory too'],
    )
    .action(async (domain: string | undefined, options: ListOptions) => {
      const { snapshotList } = await import('../commands/snapshot-list.ts');
      finish(await snapshotList(context, domain, options));
    });
};
