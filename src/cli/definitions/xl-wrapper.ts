/** Describes `xlsnap install-xl-wrapper` and `xlsnap remove-xl-wrapper` to commander. */
import type { XlWrapperOptions } from '../commands/xl-wrapper.ts';
import type { Define } from './define.ts';

const PREFIX = ['--prefix <dir>', 'install to DIR/sbin/xl (default: /usr/local)'] as const;

export const defineInstallXlWrapper: Define = (program, context, finish) => {
  program
    .command('install-xl-wrapper')
    .summary('make `xl snapshot-create` and the like work')
    .description(
      'Installs a small program called xl ahead of the real one in PATH. It passes snapshot-create, snapshot-list, snapshot-revert and ' +
        'snapshot-delete to xlsnap, ' +
        'and everything else to the real xl unchanged. An existing file is not replaced, unless it is such a wrapper.',
    )
    .option(...PREFIX)
    .addExamples(
      ['xlsnap install-xl-wrapper', 'install /usr/local/sbin/xl'],
      ['xl snapshot-create guest1 --live', 'use it'],
    )
    .action(async (options: XlWrapperOptions) => {
      const { installWrapper } = await import('../commands/xl-wrapper.ts');
      finish(await installWrapper(context, options));
    });
};

export const defineRemoveXlWrapper: Define = (program, context, finish) => {
  program
    .command('remove-xl-wrapper')
    .summary('remove the wrapper that install-xl-wrapper installed')
    .description('Removes the wrapper. Any other file is left alone.')
    .option(...PREFIX)
    .addExamples(['xlsnap remove-xl-wrapper', 'remove /usr/local/sbin/xl'])
    .action(async (options: XlWrapperOptions) => {
      const { removeWrapper } = await import('../commands/xl-wrapper.ts');
      finish(await removeWrapper(context, options));
    });
};
