/** Snapshots of disks that no QEMU has open: finds them, and undoes them with qemu-img. */

import { stat } from 'node:fs/promises';
import { RecoverError } from '../../core/errors.ts';
import { statMaybe } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { QemuDisk } from '../../memfile/manifest.ts';

import type { Host } from '../ports.ts';
import { baseOfOverlay } from './chain.ts';
import { freeImages } from './free.ts';

/** The guest may write to the base for as long after its overlay was made, until it has suspended; milliseconds. */
export const SUSPEND_MS = 120_000;

/** Tells whether the tag exists, or an overlay that QEMU has written to. */
export async function isTaken(host: Host, disk: QemuDisk): Promise<boolean> {
  if (disk.kind === 'external') return ((await statMaybe(disk.overlay))?.size ?? 0) > 0;
  return (await host.images.info(disk.image, 'qcow2'))?.tags.includes(disk.tag) === true;
}

/** Which file at an overlay's place is the one that the create has reserved. */
export type Reserved =
  /** With this inode number; `undefined`: none is. */
  | { readonly inode: number | undefined }
  /** Whichever is empty or has the base: what was reserved was not noted, or that note may be lost. */
  | 'unknown';

/**
 * Undoes one disk's snapshot, if it exists.
 * @param options `merge`: what was written to the overlay goes into its base
 * @returns whether there was anything to undo
 * @throws {RecoverError} If the image is in use (`IMAGE_IN_USE`), or its base was written to since (`BASE_WRITTEN`)
 * @throws {DiskError} If qemu-img fails
 */
export async function undoIdleDisk(
  host: Host,
  disk: QemuDisk,
  { merge, reserved }: { readonly merge: boolean; readonly reserved: Reserved },
): Promise<boolean> {
  if (disk.kind === 'internal') {
    if (!(await isTaken(host, disk))) return false;
    await freeImages(host).deleteTag(disk.image, disk.tag);
    return true;
  }
  const there = await statMaybe(disk.overlay);
  if (there === undefined) return false;
  // Another program's stays.
  if (reserved !== 'unknown' && there.ino !== reserved.inode) return false;
  // QEMU has not written to one that is empty.
  if (there.size > 0) {
    if ((await baseOfOverlay(host.images, disk.overlay)) !== disk.base) return false;
    if (merge) {
      await refuseNewerBase(disk.overlay, disk.base);
      await freeImages(host).commitOverlay(disk.overlay, disk.base);
    }
  }
  await freeImages(host).remove(disk.overlay);
  return true;
}

/**
 * A base that a domain was started on since holds newer data than the overlay: merging would mix both.
 * @throws {RecoverError} If the base was written to since
 */
async function refuseNewerBase(overlay: string, base: string): Promise<void> {
  const [above, below] = await Promise.all([stat(overlay), stat(base)]);
  // The time of a device says nothing.
  if (!above.isFile() || !below.isFile() || below.mtimeMs <= above.mtimeMs + SUSPEND_MS) return;
  throw new RecoverError(
    'BASE_WRITTEN',
    `${base} was written to at ${below.mtime.toISOString()}, after its overlay ${overlay} (${above.mtime.toISOString()}): was a domain started on it?`,
    {
      hint: `to keep what the base holds now, rm ${shellQuote(overlay)}; to keep the overlay, compare both with qemu-img compare`,
    },
  );
}
