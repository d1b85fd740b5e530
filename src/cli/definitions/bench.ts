import { DEFAULT_PATHS } from '../../bench/paths.ts';
import { count, notEmpty } from '../arguments.ts';
import type { BenchOptions } from '../commands/bench.ts';
import type { Define } from './define.ts';

export const defineBench: Define = (program, context, finish) => {
  program
    .command('bench')
    .summary('measure ways to save a domain against each other')
    .description(
      'Saves the memory of a running domain again and again: with xl save -c, and with snapshot-create, stopped and live. ' +
        'Each way has its turn in each round; what is written is removed. No disk is touched, and the domain runs on.',
    )
    .argument('<domain>', 'name or domid of a running domain', notEmpty)
    .option(
      '--paths <list>',
      'what to measure: xl-save, paused, live, and with options paused+sync, live+in-flight=1, paused+batch=510, ' +
        `paused+no-sparse, paused+no-checksums; or all (default: ${DEFAULT_PATHS})`,
    )
    .option('--rounds <n>', 'rounds, besides one to warm up (default: 5)', count(99))
    .option('--dir <directory>', 'where the files go meanwhile (default: /var/lib/xen/snapshots)', notEmpty)
    .option('--report <file>', 'write a report, one file of HTML', notEmpty)
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap bench guest1', 'xl save against snapshot-create'],
      ['xlsnap bench guest1 --paths all --rounds 10 --report /tmp/guest1.html', 'all, with a report'],
    )
    .action(async (domain: string, options: BenchOptions) => {
      const { bench } = await import('../commands/bench.ts');
      finish(await bench(context, domain, options));
    });
};
