/** Runs `xlsnap recover`. */
import type { CliContext } from '../context.ts';
import { recoverResultText } from '../output.ts';
import { type CommonOptions, runSession } from '../session.ts';
import { jsonLine } from '../text.ts';

/** Runs `xlsnap recover`; returns the exit code. */
export function recover(
  context: CliContext,
  path: string | undefined,
  options: CommonOptions,
): Promise<number> {
  return runSession(
    context,
    options,
    () => Promise.resolve(path),
    async ({ host, calls, options: limits }, file) => {
      const recovered =
        file === undefined
          ? await calls.recoverAll(host, undefined, limits)
          : [await calls.recoverSnapshot(host, { path: file }, limits)];
      return options.json === true
        ? jsonLine('recover_result', { recovered })
        : recoverResultText(recovered, file);
    },
  );
}
