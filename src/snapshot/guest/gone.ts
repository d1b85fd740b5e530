/** Tells whether a domain is gone, and what that means for an error. */
import type { Domid } from '../../core/brand.ts';
import { InterruptedError } from '../../core/errors.ts';
import type { RecoverResult } from '../api.ts';
import type { DomainState, Host } from '../ports.ts';

/** Tells whether the domain no longer exists, or is about to be removed. */
export function isGone(state: Pick<DomainState, 'dying'> | undefined): boolean {
  return state === undefined || state.dying;
}

/** Tells whether the domain has been destroyed, by Xen alone. */
export async function wasDestroyed({ hypervisor }: Host, domid: Domid): Promise<boolean> {
  return isGone(await hypervisor.vitals(domid));
}

/**
 * Returns the error to throw for one that may have come because the domain no longer exists: `gone` makes the one that says
 * so. An interruption stays one, and so does an error whose domain cannot be looked at.
 */
export async function explainGone(
  host: Host,
  domid: Domid,
  error: unknown,
  gone: (cause: unknown) => Error,
): Promise<unknown> {
  if (error instanceof InterruptedError) return error;
  return (await wasDestroyed(host, domid).catch(() => false)) ? gone(error) : error;
}

/** Returns the domain's state in one word, for results. */
export function guestNow(state: DomainState | undefined): NonNullable<RecoverResult['guest']> {
  if (state === undefined || state.dying) return 'gone';
  if (state.shutdown !== undefined) return 'shut down';
  return state.paused ? 'paused' : 'running';
}
