/** Describes `xlsnap bench` to commander. */
import { DEFAULT_PATHS } from '../../bench/paths.ts';
import { count, notEmpty } from '../arguments.ts';
import type { BenchOptions } from '../commands/bench.ts';
import type { Define } from './define.ts';
import { UNTESTED_XEN } from './untested-xen.ts';

export const defineBench: Define = (program, context, finish) => {
  program
    .command('bench')
    .summary('compare ways to save a domain')
    .description(
      'Saves the memory of a running domain several times: with xl save -c, and with snapshot-create, paused and live. ' +
        'Each way runs once per round, and its file is removed. No disk is touched, and the domain keeps running.',
    )
    .argument('<domain>', 'name or domid of a running domain', notEmpty)
    .option(
      '--paths <list>',
      'what to measure: xl-save, paused, live, tracked, or all; options follow a plus sign: paused+sync, live+in-flight=1, ' +
        `paused+batch=510, paused+no-sparse, paused+no-checksums (default: ${DEFAULT_PATHS})`,
    )
    .option('--rounds <n>', 'number of rounds, after one that warms up (default: 6)', count(99))
    .option('--dir <directory>', 'where to write the files (default: /var/lib/xen/snapshots)', notEmpty)
    .option('--report <file>', 'write a report as an HTML file', notEmpty)
    .option('--baseline <file>', 'compare with an earlier bench: what --json printed, or a report', notEmpty)
    .option(...UNTESTED_XEN)
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap bench guest1', 'compare snapshot-create with xl save'],
      ['xlsnap bench guest1 --paths all --rounds 10 --report guest1.html', 'every way, with a report'],
      ['xlsnap bench guest1 --baseline guest1.html', 'compare with that, after an upgrade for example'],
    )
    .action(async (domain: string, options: BenchOptions) => {
      const { bench } = await import('../commands/bench.ts');
      finish(await bench(context, domain, options));
    });
};
