/** The command line of a revert, for hints. */
import { shellQuote } from '../../core/shell-quote.ts';
import type { RevertRequest } from '../api.ts';

/**
 * The command line, quoted for a shell, that does a revert.
 * @returns `undefined` when the cfgfile has no path
 */
export function revertCommand(
  request: Omit<RevertRequest, 'config'> & { config: { source?: string | undefined } },
): string | undefined {
  const { domain, config, running, force, accept = [], keep, timeoutMs, otherOptions = [] } = request;
  if (config.source === undefined) return undefined;
  const words = [
    'xlsnap',
    'snapshot-revert',
    domain,
    config.source,
    ...(running === true ? ['--running'] : []),
    ...(force === true ? ['--force'] : []),
    ...(accept.length === 0 ? [] : ['--accept', accept.join(',')]),
    ...(keep === true ? ['--keep'] : []),
    ...(timeoutMs === undefined ? [] : ['--timeout', String(timeoutMs / 1000)]),
    ...otherOptions,
  ];
  return words.map(shellQuote).join(' ');
}
