import { notEmpty } from '../arguments.ts';
import type { DoctorOptions } from '../commands/doctor.ts';
import type { Define } from './define.ts';

export const defineDoctor: Define = (program, context, finish) => {
  program
    .command('doctor')
    .summary('say what works here, and which domains can be snapshotted')
    .description(
      'Looks for everything that xlsnap needs: Node, Xen and its libraries, xenstore, xl, QEMU, qemu-img, permissions. ' +
        'Then it says of each domain whether and how it can be snapshotted, and if not, why not. It changes nothing and pauses nothing. ' +
        'The exit code is 0 when all is well, 13 when something of the host is missing, else 5 when a domain cannot be snapshotted.',
    )
    .argument('[domain]', 'name or domid of the only domain to look at (default: all)', notEmpty)
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
