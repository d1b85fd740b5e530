/** The state of a domain. */
import type { RecoverResult } from '../api.ts';
import type { DomainState } from '../ports.ts';

/** Tells whether the domain no longer exists, or is about to be removed. */
export function isGone(state: Pick<DomainState, 'dying'> | undefined): boolean {
  return state === undefined || state.dying;
}

/** Returns the domain's state in one word, for results. */
export function guestNow(state: DomainState | undefined): NonNullable<RecoverResult['guest']> {
  if (state === undefined || state.dying) return 'gone';
  if (state.shutdown !== undefined) return 'shut down';
  return state.paused ? 'paused' : 'running';
}
