/** Checks whether the disks of a restored domain have come up. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { XenstoreAccess } from '../../xenstore/access.ts';
import { readStoredDisks } from './disks.ts';

/** xen/io/xenbus.h: XenbusStateInitialising, the state in which libxl makes a backend. */
const INITIALISING = '1';
const POLL_MS = 100;

/**
 * The disks whose backend has not got beyond its first state: nobody serves them, for example because the image does not exist, and QEMU runs
 * without. While the domain is paused, the others wait for its frontend.
 * @param patienceMs how long they may take
 * @returns their vdevs, with their images
 * @throws XenstoreError
 */
export async function findUnconnected(
  domid: number,
  xenstore: XenstoreAccess,
  patienceMs: number,
): Promise<readonly { readonly vdev: string; readonly path: string | undefined }[]> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    const stuck: { vdev: string; path: string | undefined }[] = [];
    for (const { vdev, backend, image } of await readStoredDisks(domid, xenstore)) {
      // An empty drive's backend, and another domain's, are not for us to judge.
      if (backend === undefined || backend.domid !== 0 || image === undefined) continue;
      const state = await xenstore.readMaybe(`${backend.path}/state`);
      if (state === INITIALISING) stuck.push({ vdev, path: image.path });
    }
    if (stuck.length === 0 || performance.now() >= deadline) return stuck;
    await sleep(POLL_MS);
  }
}
