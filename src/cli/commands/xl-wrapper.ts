import {
  DEFAULT_PREFIX,
  installXlWrapper,
  removeXlWrapper,
  WRAPPED_COMMANDS,
} from '../../toolstack/xl/wrapper.ts';
import type { CliContext } from '../context.ts';
import { makeReporter } from '../progress.ts';
import { reportError } from '../report-error.ts';
import { printable } from '../text.ts';

export interface XlWrapperOptions {
  readonly prefix?: string;
}

/** Runs `xlsnap install-xl-wrapper`; returns the exit code. */
export function installWrapper(
  context: CliContext,
  { prefix = DEFAULT_PREFIX }: XlWrapperOptions,
): Promise<number> {
  return said(context, async () => {
    const { path, xl, warnings } = await installXlWrapper(prefix, context.program);
    const reporter = makeReporter(context, { json: false, quiet: true });
    for (const warning of warnings) reporter.log('warning', warning);
    return [
      `${path} passes ${WRAPPED_COMMANDS.join(', ')} to ${context.program}, everything else to ${xl}`,
      'Shells that are already running may have to forget where xl was: hash -r',
    ];
  });
}

/** Runs `xlsnap remove-xl-wrapper`; returns the exit code. */
export function removeWrapper(
  context: CliContext,
  { prefix = DEFAULT_PREFIX }: XlWrapperOptions,
): Promise<number> {
  return said(context, async () => [`removed ${await removeXlWrapper(prefix)}`]);
}

async function said(context: CliContext, work: () => Promise<readonly string[]>): Promise<number> {
  try {
    const lines = await work();
    context.stdout.write(`${lines.map(printable).join('\n')}\n`);
    return 0;
  } catch (error) {
    return reportError(context, error, false);
  }
}
