/** Reads what a guest says about itself in xenstore: whether it can suspend. */
import type { XenstoreAccess } from '../../xenstore/access.ts';

/**
 * Whether a guest can suspend. `announced`: it can. `missing`: it has announced other abilities, but not this
 * one. A kernel without hibernation ignores the request to suspend; a unikernel may shut down on it.
 * `silent`: it has announced nothing. It is booting, has never run, or never announces anything.
 */
export type SuspendFeature = 'announced' | 'missing' | 'silent';

/** What a guest's kernel writes while it watches `control/shutdown` (Linux: drivers/xen/manage.c). */
const OTHERS = ['poweroff', 'reboot', 'halt'] as const;

/**
 * Reads whether a guest can suspend. libxl creates the nodes empty, so only what the guest has written
 * counts.
 * @throws {XenstoreError} If xenstore cannot be read.
 */
export async function readSuspendFeature(
  xenstore: Pick<XenstoreAccess, 'readMaybe'>,
  domid: number,
): Promise<SuspendFeature> {
  const says = async (feature: string): Promise<boolean> =>
    (await xenstore.readMaybe(`/local/domain/${domid}/control/feature-${feature}`)) === '1';
  if (await says('suspend')) return 'announced';
  for (const other of OTHERS) if (await says(other)) return 'missing';
  return 'silent';
}
