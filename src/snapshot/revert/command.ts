/** The command line of a revert, for hints. */
import { shellQuote } from '../../core/shell-quote.ts';
import type { RevertRequest } from '../api.ts';

/**
 * The command line, quoted for a shell, that does a revert.
 * @returns `undefined` when neither the snapshot nor its cfgfile has a name
 */
export function revertCommand(
  request: Omit<RevertRequest, 'config'> & { config: { source?: string | undefined } },
): string | undefined {
  const { domain, config, running, force, accept = [], keep, timeoutMs, otherOptions = [] } = request;
  const snapshot = request.named ?? config.source;
  if (snapshot === undefined) return undefined;
  const words = [
    'xlsnap',
    'snapshot-revert',
    domain,
    snapshot,
    ...(running === true ? ['--running'] : []),
    ...(force === true ? ['--force'] : []),
    ...(accept.length === 0 ? [] : ['--accept', accept.join(',')]),
    ...(keep === true ? ['--keep'] : []),
    ...(timeoutMs === undefined ? [] : ['--timeout', String(timeoutMs / 1000)]),
    ...otherOptions,
  ];
  return words.map(shellQuote).join(' ');
}
