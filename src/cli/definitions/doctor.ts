/** Describes `xlsnap doctor` to commander. */
import { notEmpty } from '../arguments.ts';
import type { DoctorOptions } from '../commands/doctor.ts';
import type { Define } from './define.ts';
import { UNTESTED_XEN } from './untested-xen.ts';

export const defineDoctor: Define = (program, context, finish) => {
  program
    .command('doctor')
    .summary('check this host, and which domains can be snapshotted')
    .description(
      'Checks everything that xlsnap needs: Node, Xen and its libraries, xenstore, xl, QEMU, qemu-img, permissions. ' +
        'Then reports for each domain whether and how it can be snapshotted, or why it cannot. Nothing is changed or paused. ' +
        'The exit code is 0 if all is well, 13 if the host lacks something, and otherwise 5 if a domain cannot be snapshotted.',
    )
    .argument('[domain]', 'name or domid of a single domain to check (default: all domains)', notEmpty)
    .option(...UNTESTED_XEN)
    .option('--json', 'JSON: the report on stdout')
    .addExamples(
      ['xlsnap doctor', 'the host and all domains'],
      ['xlsnap doctor guest1', 'the host and one domain'],
    )
    .action(async (domain: string | undefined, options: DoctorOptions) => {
      const { doctor } = await import('../commands/doctor.ts');
      finish(await doctor(context, domain, options));
    });
};
