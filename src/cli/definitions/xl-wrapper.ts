import type { XlWrapperOptions } from '../commands/xl-wrapper.ts';
import type { Define } from './define.ts';

const PREFIX = ['--prefix <dir>', 'the wrapper is DIR/sbin/xl (default: /usr/local)'] as const;

export const defineInstallXlWrapper: Define = (program, context, finish) => {
  program
    .command('install-xl-wrapper')
    .summary('make `xl snapshot-create` and `xl snapshot-revert` work')
    .description(
      'Installs a small program xl that comes before the real one in PATH. It hands snapshot-create and snapshot-revert to xlsnap, ' +
        'and everything else to the real xl as it is. A file that is there already is not replaced, unless it is such a wrapper.',
    )
    .option(...PREFIX)
    .addExamples(
      ['xlsnap install-xl-wrapper', 'as /usr/local/sbin/xl'],
      ['xl snapshot-create guest1 --live', 'then this works'],
    )
    .action(async (options: XlWrapperOptions) => {
      const { installWrapper } = await import('../commands/xl-wrapper.ts');
      finish(await installWrapper(context, options));
    });
};

export const defineRemoveXlWrapper: Define = (program, context, finish) => {
  program
    .command('remove-xl-wrapper')
    .summary('remove what install-xl-wrapper has installed')
    .description('Removes the wrapper. Any other file stays.')
    .option(...PREFIX)
    .addExamples(['xlsnap remove-xl-wrapper', 'from /usr/local/sbin'])
    .action(async (options: XlWrapperOptions) => {
      const { removeWrapper } = await import('../commands/xl-wrapper.ts');
      finish(await removeWrapper(context, options));
    });
};
