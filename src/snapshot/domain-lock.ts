/** Locks on whom and what an operation is about, which only can be known before they are held. */
import { DomainError } from '../core/errors.ts';
import type { Phases } from './phases.ts';
import type { DomainState, Toolstack } from './ports.ts';

/** A domain that is started anew again and again while its lock is waited for. */
const MAX_ATTEMPTS = 5;

/** What names a domain: another create or revert of it has at least one of these too. */
export function domainKeys(domain: Pick<DomainState, 'uuid' | 'name'> | undefined): readonly string[] {
  return domain === undefined ? [] : [domain.uuid, domain.name];
}

export interface Locked<T> extends AsyncDisposable {
  /** What was found once the lock was held. */
  readonly found: T;
  readonly keys: readonly string[];
}

/**
 * Finds out which keys are to be locked, locks them in phase `lock`, and finds out again: in between the domain may have
 * rebooted, been renamed, or been started anew with another uuid. Keys that are not held then are locked with the others
 * from the start.
 * @throws what `identify` throws; InterruptedError; DomainError DOMAIN_BUSY, and DOMAIN_CHANGING when it is another each time
 */
export async function lockIdentified<T extends { readonly keys: readonly string[] }>(
  phases: Phases,
  toolstack: Pick<Toolstack, 'lock'>,
  identify: () => Promise<T>,
  what: string,
): Promise<Locked<T>> {
  let keys: readonly string[] | undefined;
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const lock = await phases.run('lock', async () => {
      keys ??= (await identify()).keys;
      return await toolstack.lock(keys, { what });
    });
    const held = keys ?? [];
    try {
      // A step of its own: should it be given up, the lock is released all the same.
      const found = await phases.step(identify);
      if (holds(held, found.keys)) {
        return { found, keys: held, [Symbol.asyncDispose]: () => lock[Symbol.asyncDispose]() };
      }
      keys = found.keys;
    } catch (error) {
      await lock[Symbol.asyncDispose]();
      throw error;
    }
    await lock[Symbol.asyncDispose]();
  }
  throw new DomainError('DOMAIN_CHANGING', 'the domain was another one each time that it was looked at', {
    hint: 'is it restarted again and again? Try again when it stays',
  });
}

function holds(held: readonly string[], keys: readonly string[]): boolean {
  return keys.every((key) => held.includes(key));
}

/**
 * What was found later must still be what is locked.
 * @throws DomainError DOMAIN_CHANGED
 */
export function checkHeld(held: readonly string[], domain: DomainState | undefined): void {
  if (domain === undefined || holds(held, domainKeys(domain))) return;
  throw new DomainError('DOMAIN_CHANGED', `domain ${domain.name} was started anew in the meantime`, {
    domid: domain.domid,
    hint: 'nothing has been touched; the same command tries again',
  });
}
