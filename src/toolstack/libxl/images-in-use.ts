/** Finds who has which image open: domains, by libxl's entries in xenstore, and dom0's kernel. */
import type { ImageUse } from '../../snapshot/ports.ts';
import type { XenstoreAccess } from '../../xenstore/access.ts';
import { type BlkbackUser, type KernelRoots, kernelUsers } from '../kernel/image-users.ts';
import { readStoredDisks } from '../qemu/disks.ts';
import { parseDevice } from '../storage/places.ts';

/**
 * Does what `Toolstack.imagesInUse` says. A loop device that blkback serves to a domain counts as that domain.
 * @throws {XenstoreError} If xenstore cannot be read.
 */
export async function imagesInUse(
  xenstore: XenstoreAccess,
  roots?: KernelRoots,
): Promise<readonly ImageUse[]> {
  const found: ImageUse[] = [];
  const devices = new Map<string, BlkbackUser>();
  for (const name of await xenstore.listMaybe('/local/domain')) {
    const domid = Number(name);
    if (!Number.isSafeInteger(domid)) continue;
    const own = (await xenstore.readMaybe(`/local/domain/${domid}/name`)) ?? '';
    const holder = `domain ${own} (domid ${domid})`;
    for (const { image, writable, backend } of await readStoredDisks(domid, xenstore)) {
      if (image !== undefined) found.push({ ...image, domid, holder, writable });
      // Device numbers of another domain mean nothing here.
      const device = backend?.domid === 0 ? parseDevice(backend.device) : undefined;
      if (device !== undefined) devices.set(`${device.major}:${device.minor}`, { domid, holder, writable });
    }
  }
  return [...found, ...(await kernelUsers(devices, roots))];
}
