/** Which snapshots are of a domain. */
import { isUuid } from '../../core/guards.ts';
import type { FoundManifest } from '../../memfile/find-manifests.ts';
import { domainKeys } from '../domain-lock.ts';
import type { DomainState, Host } from '../ports.ts';

/**
 * Lists the snapshots of a domain by what their manifests say: those of its name, under whatever uuid it ran then, and those of
 * a uuid that it has or had. A domain that was renamed shares those of its former name with the one that has it now, so this
 * is for lists: what deletes uses `ownedBy`.
 * @param keys names and uuids
 */
export function ofDomain(all: readonly FoundManifest[], keys: readonly string[]): readonly FoundManifest[] {
  const named = all.filter(({ manifest }) => keys.includes(manifest.domain));
  const uuids = new Set([...keys, ...named.map(({ manifest }) => manifest.uuid)]);
  return all.filter(({ manifest }) => keys.includes(manifest.domain) || uuids.has(manifest.uuid));
}

/**
 * Lists the snapshots that are a domain's and no other's: of its name or uuid, unless their uuid is that of another domain
 * that runs, by another name by now.
 * @throws {EnvironmentError} If Xen or xenstore cannot be asked
 */
export async function ownedBy(
  { toolstack }: Host,
  all: readonly FoundManifest[],
  { running, keys }: GivenDomain,
): Promise<readonly FoundManifest[]> {
  const owned: FoundManifest[] = [];
  for (const found of all) {
    const { domain, uuid } = found.manifest;
    if (!keys.includes(domain) && !keys.includes(uuid)) continue;
    const owner = keys.includes(uuid) ? undefined : await toolstack.findByUuid(uuid);
    if (owner === undefined || owner === running?.domid) owned.push(found);
  }
  return owned;
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
 * @throws {EnvironmentError} If Xen or xenstore cannot be asked
 */
export async function givenDomain({ toolstack, hypervisor }: Host, word: string): Promise<GivenDomain> {
  const domid = await toolstack.findDomain(word);
  const running = domid === undefined ? undefined : await hypervisor.domainState(domid);
  return { running, keys: keysOf(word, running) };
}

/** Names and uuids that a word from the user stands for. A number is a domid if there is such a domain. */
export function keysOf(word: string, running: DomainState | undefined): readonly string[] {
  const own = running !== undefined && /^[0-9]+$/.test(word) ? [] : toKeys(word);
  return [...new Set([...own, ...domainKeys(running)])];
}

/** Returns a word from the user as a name, and as a uuid if it is one. Names are case-sensitive, uuids are not. */
export function toKeys(word: string): readonly string[] {
  return isUuid(word) ? [word, word.toLowerCase()] : [word];
}
