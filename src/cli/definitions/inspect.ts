/** Describes `xlsnap inspect` to commander. */
import { notEmpty } from '../arguments.ts';
import type { InspectFileOptions } from '../commands/inspect.ts';
import type { Define } from './define.ts';

export const defineInspect: Define = (program, context, finish) => {
  program
    .command('inspect')
    .summary('show what a memory file contains, or what changed between two')
    .description(
      "Shows the contents of a memory file, or of one of xl's save files: domain, disks, records, memory map, sizes, and the " +
        'manifest beside it. Reads no pages: pages of zeros are recognised as holes in the file. ' +
        'With two files, compares their memory page by page. Needs no Xen.',
    )
    .argument('<file>', 'the memory file', notEmpty)
    .argument('[other]', 'a later one to compare it with', notEmpty)
    .option('--read-pages', 'one file: also read the pages, to find pages of zeros that take up space')
    .option('--picture <file.svg>', 'two files: draw where memory changed')
    .option('--json', 'JSON: the result on stdout, errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap inspect /x/a.save', 'show its contents'],
      ['xlsnap inspect /x/a.save /x/b.save', 'show what changed from a to b'],
      ['xlsnap inspect /x/a.save /x/b.save --picture c.svg', 'draw where memory changed'],
    )
    .action(async (path: string, other: string | undefined, options: InspectFileOptions) => {
      const { inspectFiles } = await import('../commands/inspect.ts');
      finish(await inspectFiles(context, path, other, options));
    });
};
