/** Which snapshots are of a domain. */
import type { FoundManifest } from '../../memfile/find-manifests.ts';
import { domainKeys } from '../domain-lock.ts';
import type { DomainState, Host } from '../ports.ts';

/**
 * The snapshots of a domain by what their manifests say: those of its name, under whatever uuid it ran then, and those of
 * a uuid that it has or had.
 * @param keys names and uuids
 */
export function ofDomain(all: readonly FoundManifest[], keys: readonly string[]): readonly FoundManifest[] {
  const named = all.filter(({ manifest }) => keys.includes(manifest.domain));
  const uuids = new Set([...keys, ...named.map(({ manifest }) => manifest.uuid)]);
  return all.filter(({ manifest }) => keys.includes(manifest.domain) || uuids.has(manifest.uuid));
}

/** A domain as a user gives it, with the keys that its snapshots may have. */
export interface GivenDomain {
  /** Absent if it does not run. */
  readonly running: DomainState | undefined;
  /** Names and uuids. */
  readonly keys: readonly string[];
}

/**
 * Looks a domain up. It need not run.
 * @param word a name, a uuid or a domid
 * @throws what the host's lookups throw
 */
export async function givenDomain({ toolstack, hypervisor }: Host, word: string): Promise<GivenDomain> {
  const domid = await toolstack.findDomain(word);
  const running = domid === undefined ? undefined : await hypervisor.domainState(domid);
  return { running, keys: keysOf(word, running) };
}

/** Names and uuids that a word from the user stands for. A number is a domid if there is such a domain. */
export function keysOf(word: string, running: DomainState | undefined): readonly string[] {
  const own = running !== undefined && /^[0-9]+$/.test(word) ? [] : [word, word.toLowerCase()];
  return [...new Set([...own, ...domainKeys(running)])];
}
