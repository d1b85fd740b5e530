/** Who has the images open that a delete is about. */
import { toDomid } from '../../core/brand.ts';
import { domainKeys } from '../domain-lock.ts';
import { isSameImage, isUseOf, type StatedImage, truePath } from '../images/chain.ts';
import type { DomainState, Host, ImageUse } from '../ports.ts';

/** Overlays that will have been merged by then, each with the image that it is on; by their true names. */
export type Merged = ReadonlyMap<string, StatedImage>;

const NONE: Merged = new Map();

/**
 * Lists those who have an image open, or one above it.
 * @param merged earlier merges of the same plan: whoever has such an overlay open counts as having the image below open
 * @throws {DiskError} If an image in use cannot be read
 */
export async function allUsersOf(host: Host, image: string, merged = NONE): Promise<ImageUse[]> {
  const users: ImageUse[] = [];
  for (const now of await host.toolstack.imagesInUse()) {
    let used = now;
    for (let below = merged.get(await truePath(used.path)); below !== undefined; ) {
      used = { ...used, ...below };
      below = merged.get(await truePath(used.path));
    }
    if (await isUseOf(host, used, image)) users.push(used);
  }
  return users;
}

/**
 * Who has an image open: nobody, one of the domains that are locked, or another program.
 * @returns `own`: that domain, if it has the image itself open, and not one above it, and nobody else has
 * @throws {DiskError} If an image in use cannot be read
 */
export async function usersOf(
  host: Host,
  image: string,
  keys: readonly string[],
  merged = NONE,
): Promise<{ readonly user: ImageUse | undefined; readonly own: DomainState | undefined }> {
  let found: { readonly user: ImageUse; readonly own: DomainState } | undefined;
  for (const user of await allUsersOf(host, image, merged)) {
    const own = (await isSameImage(user.path, image)) ? await ownDomain(host, user, keys) : undefined;
    if (own === undefined) return { user, own };
    found ??= { user, own };
  }
  return found ?? { user: undefined, own: undefined };
}

/** The domain that has an image open, if it is one of those that are locked. */
export async function ownDomain(
  { hypervisor }: Host,
  { domid }: ImageUse,
  keys: readonly string[],
): Promise<DomainState | undefined> {
  const state = domid === undefined ? undefined : await hypervisor.domainState(toDomid(domid));
  return domainKeys(state).some((key) => keys.includes(key)) ? state : undefined;
}
