/** Runs `xlsnap install-xl-wrapper` and `xlsnap remove-xl-wrapper`. */
import { EXIT } from '../../core/errors.ts';
import {
  DEFAULT_PREFIX,
  installXlWrapper,
  removeXlWrapper,
  WRAPPED_COMMANDS,
} from '../../toolstack/xl/wrapper.ts';
import type { CliContext } from '../context.ts';
import { runLocal } from '../local.ts';

export interface XlWrapperOptions {
  readonly prefix?: string;
}

/** Runs `xlsnap install-xl-wrapper`; returns the exit code. */
export function installWrapper(
  context: CliContext,
  { prefix = DEFAULT_PREFIX }: XlWrapperOptions,
): Promise<number> {
  return runLocal(context, { quiet: true }, async ({ reporter, print }) => {
    const installed = await installXlWrapper(prefix, context.program);
    const { path, xl, warnings } = installed;
    for (const warning of warnings) reporter.log('warning', warning);
    const lines = [
      `${path} passes ${WRAPPED_COMMANDS.join(', ')} to ${context.program}, everything else to ${xl}`,
      'Shells that are already running may have to forget where xl was: hash -r',
    ];
    print('install_xl_wrapper_result', installed, () => lines.join('\n'));
    return EXIT.ok;
  });
}

/** Runs `xlsnap remove-xl-wrapper`; returns the exit code. */
export function removeWrapper(
  context: CliContext,
  { prefix = DEFAULT_PREFIX }: XlWrapperOptions,
): Promise<number> {
  return runLocal(context, { quiet: true }, async ({ print }) => {
    const result = await removeXlWrapper(prefix);
    const { path, removed } = result;
    print('remove_xl_wrapper_result', result, () =>
      removed ? `removed ${path}` : `There is no ${path}: nothing to remove`,
    );
    return EXIT.ok;
  });
}
