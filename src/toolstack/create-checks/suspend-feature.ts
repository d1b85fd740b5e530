/** What a guest says about itself in xenstore: whether it can suspend. */
import type { XenstoreAccess } from '../../xenstore/access.ts';

/**
 * `announced`: it can. `missing`: it has announced other things that it can do, and that not: a kernel without hibernation
 * takes a request to suspend for nothing, a unikernel may shut down on it. `silent`: it has not said anything: it boots, has
 * never run, or is one that announces nothing.
 */
export type SuspendFeature = 'announced' | 'missing' | 'silent';

/** What a guest's kernel writes when it watches `control/shutdown` (Linux: drivers/xen/manage.c). */
const OTHERS = ['poweroff', 'reboot', 'halt'] as const;

/**
 * Reads it. libxl makes the nodes empty, so only what the guest has written counts.
 * @throws XenstoreError
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
