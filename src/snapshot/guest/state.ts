import type { RecoverResult } from '../api.ts';
import type { DomainState } from '../ports.ts';

/** Whether there is no such domain, or not for long. */
export function isGone(state: Pick<DomainState, 'dying'> | undefined): boolean {
  return state === undefined || state.dying;
}

/** How a domain is, in a word. */
export function guestNow(state: DomainState | undefined): NonNullable<RecoverResult['guest']> {
  if (state === undefined || state.dying) return 'gone';
  if (state.shutdown !== undefined) return 'shut down';
  return state.paused ? 'paused' : 'running';
}
