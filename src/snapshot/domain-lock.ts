/** Locks on a domain by its name and uuids, which may change while the locks are waited for. */
import { DomainError } from '../core/errors.ts';
import type { Phases } from './phases.ts';
import type { DomainState, Toolstack } from './ports.ts';

/** Maximum number of lookups of a domain that restarts repeatedly while its lock is waited for. */
const MAX_ATTEMPTS = 5;

/** What identifies a domain: any other operation on it has at least one of these keys too. */
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
 * rebooted, been renamed, or been started again with another uuid. If keys are missing then, all are locked from scratch.
 * @throws {DomainError} If another program holds a lock (`DOMAIN_BUSY`), or the domain is another each time (`DOMAIN_CHANGING`)
 * @throws {InterruptedError} If the signal is aborted, or an error of `identify`
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
  throw new DomainError('DOMAIN_CHANGING', 'the domain had another name or uuid each time it was looked up', {
    hint: 'does it restart repeatedly? try again when it keeps running',
  });
}

function holds(held: readonly string[], keys: readonly string[]): boolean {
  return keys.every((key) => held.includes(key));
}

/**
 * Makes sure that a domain which was looked up again is still the one that is locked.
 * @throws {DomainError} If it is another (`DOMAIN_CHANGED`)
 */
export function checkHeld(held: readonly string[], domain: DomainState | undefined): void {
  if (domain === undefined || holds(held, domainKeys(domain))) return;
  throw restartedError(domain);
}

/** The error of a check whose domain is no longer the one that was found. */
export function restartedError({ name, domid }: DomainState, cause?: unknown): DomainError {
  return new DomainError('DOMAIN_CHANGED', `domain ${name} was restarted in the meantime`, {
    domid,
    cause,
    hint: 'nothing has been changed; run the same command again',
  });
}
