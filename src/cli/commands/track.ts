/** Runs `xlsnap track off`. */
import type { CliContext } from '../context.ts';
import { type CommonOptions, runSession } from '../session.ts';
import { jsonLine } from '../text.ts';

/** Runs `xlsnap track off`; returns the exit code. */
export function trackOff(context: CliContext, domain: string, options: CommonOptions): Promise<number> {
  return runSession(
    context,
    options,
    () => Promise.resolve(domain),
    async ({ host, calls, reporter, options: limits }, name) => {
      const result = await calls.stopTracking(host, name, limits);
      for (const warning of result.warnings) reporter.log('warning', warning);
      if (options.json === true) return jsonLine('track_off_result', result);
      const { domain: found, tracked } = result;
      return tracked
        ? `Domain ${found} is not tracked any more: the next snapshot copies all of its memory`
        : `Domain ${found} was not tracked`;
    },
  );
}
