/** Who else uses the images that a revert is going to change: QEMU opens them without locks under Xen. */

import { DomainError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import type { RevertDisk, RevertPlan } from '../api.ts';
import { isGone } from '../guest/gone.ts';
import { howToRelease, userOf } from '../images/chain.ts';
import type { DomainState, Host } from '../ports.ts';
import { wayOf } from './ways.ts';

/**
 * Finds the users of a disk's image other than the domain that will be destroyed. Nothing overrides this: writing to an
 * image that another domain has open corrupts it.
 */
export async function findOtherUser(
  host: Host,
  disk: RevertDisk,
  running: DomainState | undefined,
): Promise<Problem | undefined> {
  const user = await userOf(host, wayOf(host, disk).image, running?.domid);
  if (user === undefined) return undefined;
  return {
    code: 'IMAGE_IN_USE',
    message: `disk ${disk.vdev}: ${user.holder} uses ${user.path}`,
    hint: `${howToRelease(user)} first; --force does not override this`,
  };
}

/**
 * Finds a later life of the domain that a revert is about, once that was destroyed: one that has rebooted, or that another
 * program has started again, writes to the same images.
 */
export async function findReturned(
  { toolstack, hypervisor }: Host,
  {
    plan,
    running,
  }: { readonly plan: Pick<RevertPlan, 'domain' | 'uuid'>; readonly running: DomainState | undefined },
): Promise<DomainState | undefined> {
  const names = new Set([plan.domain, ...(running === undefined ? [] : [running.name])]);
  const uuids = new Set([plan.uuid, ...(running === undefined ? [] : [running.uuid])]);
  const domids = [
    ...[...names].map((name) => toolstack.findByName(name)),
    ...[...uuids].map((uuid) => toolstack.findByUuid(uuid)),
  ];
  for (const domid of await Promise.all(domids)) {
    const state = domid === undefined ? undefined : await hypervisor.domainState(domid);
    if (!isGone(state)) return state;
  }
  return undefined;
}

/** @returns the error to throw */
export function returnedError({ name, domid }: DomainState): DomainError {
  return new DomainError('DOMAIN_RETURNED', `domain ${name} has started again, as domid ${domid}`, {
    domid,
    hint: 'is it rebooting, or does another program start it? run the same command again',
  });
}
