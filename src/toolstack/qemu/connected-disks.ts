/** Checks whether the disks of a restored domain have connected. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { XenstoreAccess } from '../../xenstore/access.ts';
import { readStoredDisks } from './disks.ts';

/** The state in which libxl creates a backend (xen/io/xenbus.h: XenbusStateInitialising). */
const INITIALISING = '1';
const POLL_MS = 100;

/**
 * Finds the disks whose backend has not left its first state: nobody serves them, for example because the
 * image does not exist, and QEMU runs without it. While the domain is paused, the other backends wait for its
 * frontend.
 * @param patienceMs how long to wait for them, in milliseconds
 * @returns their vdevs, with their images
 * @throws {XenstoreError} If xenstore cannot be read.
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
      // An empty drive's backend, and another domain's, cannot be judged here.
      if (backend === undefined || backend.domid !== 0 || image === undefined) continue;
      const state = await xenstore.readMaybe(`${backend.path}/state`);
      if (state === INITIALISING) stuck.push({ vdev, path: image.path });
    }
    if (stuck.length === 0 || performance.now() >= deadline) return stuck;
    await sleep(POLL_MS);
  }
}
