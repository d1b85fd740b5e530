import { notEmpty } from '../arguments.ts';
import type { InspectFileOptions } from '../commands/inspect.ts';
import type { Define } from './define.ts';

export const defineInspect: Define = (program, context, finish) => {
  program
    .command('inspect')
    .summary('tell what a memory file holds, or what changed between two')
    .description(
      "Tells what is in a memory file, or a save file of xl's: domain, disks, records, memory map, sizes, and the " +
        'manifest beside it. Reads no pages: those of zeros are found where they are holes of the file. ' +
        'With two files it compares the memory in them, page by page. Needs no Xen.',
    )
    .argument('<file>', 'the memory file', notEmpty)
    .argument('[other]', 'a later one to compare it with', notEmpty)
    .option('--read-pages', 'one file: read the pages too, to find those of zeros that take room')
    .option('--picture <file.svg>', 'two files: draw where memory changed')
    .option('--json', 'JSON: the result on stdout, errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addExamples(
      ['xlsnap inspect /x/a.save', 'what is in it'],
      ['xlsnap inspect /x/a.save /x/b.save', 'what changed from a to b'],
      ['xlsnap inspect /x/a.save /x/b.save --picture c.svg', 'and where'],
    )
    .action(async (path: string, other: string | undefined, options: InspectFileOptions) => {
      const { inspectFiles } = await import('../commands/inspect.ts');
      finish(await inspectFiles(context, path, other, options));
    });
};
