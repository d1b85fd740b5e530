/**
 * Undoes the steps of a create that concern disks and files: for the process that took them, and for another one that has its
 * journal. A function called `plan…Undo` only registers an undo in `phases`, which runs if the create fails.
 */

import { createHash } from 'node:crypto';
import { readFile, rm, stat } from 'node:fs/promises';
import type { Domid } from '../../core/brand.ts';
import { errnoCode } from '../../core/errors.ts';
import { lstatMaybe, removeReserved } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { ExternalDisk, QemuDisk, SnapshotDisk, StorageDisk } from '../../memfile/manifest.ts';
import { partialOf } from '../../memfile/names.ts';
import { wasDestroyed } from '../guest/gone.ts';
import { isTaken, type Reserved, undoIdleDisk } from '../images/idle-disk.ts';
import type { Phases } from '../phases.ts';
import type { DeviceModel, DiskAction, Host } from '../ports.ts';
import { storageOf } from '../storage/find.ts';
import type { PreparedSnapshot } from '../storage/port.ts';

/** Maximum size of a cfgfile or a manifest; a larger file is not ours. */
const MAX_TEXT_BYTES = 4 * 1024 * 1024;

/** Registers the removal of the memory file, which is not complete. */
export function planPartialUndo(phases: Phases, memoryPath: string, discard: () => Promise<unknown>): void {
  const partial = partialOf(memoryPath);
  phases.onUndo(`removed ${partial}`, `rm ${shellQuote(partial)}`, discard);
}

/**
 * Registers one undo for each disk, so that one that fails does not prevent the others.
 * @returns a function that forgets them
 */
export function planDiskUndos<Disk extends SnapshotDisk>(
  phases: Phases,
  host: Host,
  disks: readonly Disk[],
  undoOne: (disk: Disk) => Promise<unknown>,
): () => void {
  const forget = disks.map((disk) =>
    phases.onUndo(`removed the snapshot of disk ${disk.vdev}`, byHand(host, disk), () => undoOne(disk)),
  );
  return () => {
    for (const one of forget) one();
  };
}

/**
 * Undoes what a storage has prepared or taken for a disk.
 * @param prepared what the storage has noted about it
 */
export async function undoStored(
  host: Host,
  disk: StorageDisk,
  prepared: PreparedSnapshot,
): Promise<boolean> {
  return await storageOf(host, disk).undo(disk, prepared);
}

/**
 * Removes the file that was reserved for an overlay, as long as QEMU has not written to it.
 * @param inode what was noted of it
 */
export async function undoReservation(
  { overlay }: ExternalDisk,
  { mark, inode }: { readonly mark: string; readonly inode: number | undefined },
): Promise<boolean> {
  const used = ((await lstatMaybe(overlay))?.size ?? 0) > 0;
  return await removeReserved(overlay, { mark, inode: used ? undefined : inode });
}

/** Registers the removal of the file that is reserved for an overlay. */
export function planReservationUndo(
  phases: Phases,
  disk: ExternalDisk,
  { mark, inode }: { readonly mark: string; readonly inode: () => number | undefined },
): void {
  const { overlay } = disk;
  phases.onUndo(`removed ${overlay}`, `rm ${shellQuote(overlay)}, if it is empty`, () =>
    undoReservation(disk, { mark, inode: inode() }),
  );
}

/** Undoes one disk's snapshot, if it was taken: by its QEMU, or without if the domain has been destroyed since. */
export async function undoTakenDisk(
  host: Host,
  domid: Domid,
  deviceModel: DeviceModel,
  disk: QemuDisk,
  reserved: Reserved,
): Promise<unknown> {
  if (await wasDestroyed(host, domid)) return await undoIdleDisk(host, disk, { merge: true, reserved });
  try {
    return await undoDisk(host, domid, deviceModel, disk);
  } catch (error) {
    // A QEMU that died before it took any leaves nothing to undo.
    if (await isTaken(host, disk)) throw error;
    return false;
  }
}

/** Undoes one disk's snapshot while the domain exists. @returns whether there was one */
export async function undoDisk(
  host: Host,
  domid: Domid,
  deviceModel: DeviceModel,
  disk: QemuDisk,
): Promise<boolean> {
  // In this order: if an overlay cannot be merged, the configuration keeps naming it.
  const undone = await deviceModel.undoSnapshots([toAction(disk)]);
  if (disk.kind === 'external') {
    await host.toolstack.repointDisks(domid, [{ vdev: disk.vdev, path: disk.base, format: disk.baseFormat }]);
  }
  return undone.length > 0;
}

/** Registers the removal of a small file; another file in its place stays. */
export function planTextUndo(phases: Phases, path: string, sha256: string): void {
  phases.onUndo(`removed ${path}`, `rm ${shellQuote(path)}`, async () => {
    if (!(await isText(path, sha256))) return false;
    await rm(path, { force: true });
    return true;
  });
}

async function isText(path: string, sha256: string): Promise<boolean> {
  try {
    const { size } = await stat(path);
    return size <= MAX_TEXT_BYTES && digest(await readFile(path)) === sha256;
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Returns the SHA-256 in hexadecimal. */
export function digest(text: string | Uint8Array): string {
  return createHash('sha256').update(text).digest('hex');
}

/** @param reserved the inode number of the file that was reserved for an overlay */
export function toAction(disk: QemuDisk, reserved?: number): DiskAction {
  return disk.kind === 'internal'
    ? { kind: 'internal', vdev: disk.vdev, tag: disk.tag }
    : {
        kind: 'external',
        vdev: disk.vdev,
        path: disk.overlay,
        ...(reserved === undefined ? {} : { reserved }),
      };
}

function byHand({ storages = [] }: Host, disk: SnapshotDisk): string {
  switch (disk.kind) {
    case 'internal':
      return `with the domain down, qemu-img snapshot -d ${shellQuote(disk.tag)} ${shellQuote(disk.image)}`;
    case 'external':
      return `the domain keeps using ${disk.overlay}: do not remove it`;
    case 'storage': {
      const storage = storages.find(({ name }) => name === disk.storage);
      return storage?.byHand(disk, 'undo', '') ?? `remove ${disk.snapshot}`;
    }
  }
}
