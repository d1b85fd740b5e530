/** What a killed create may have left of the snapshots of its disks, and how that is undone. */
import { EnvironmentError } from '../../core/errors.ts';
import type { QemuDisk } from '../../memfile/manifest.ts';
import { type Reserved, undoIdleDisk } from '../images/idle-disk.ts';
import type { Phases } from '../phases.ts';
import type { DeviceModel, DomainState, Host } from '../ports.ts';
import type { CreateHead } from './journal.ts';
import { planReservationUndo, qemuByHand, qemuDisks, undoDisk } from './qemu-taker.ts';
import { storedByHand, storedDisks, undoStored } from './stored-taker.ts';
import { planDiskUndo } from './undo.ts';

/** What a killed create left behind, and its domain now. */
export interface KilledCreate {
  readonly host: Host;
  readonly head: CreateHead;
  readonly phases: Phases;
  /** The domain with that uuid, if it exists. */
  readonly domain: DomainState | undefined;
  /** Whether that is the one whose create was killed, and not a later life of it. */
  readonly same: boolean;
  readonly deviceModel: DeviceModel | undefined;
  /** Why it has none. */
  readonly noQemu: unknown;
}

/** What a journal says about disks. */
export interface DiskSteps {
  readonly preparing: boolean;
  readonly disks: boolean;
  /** What storages have prepared, by vdev. */
  readonly prepared: ReadonlyMap<string, string>;
  /** Inode numbers of the files that were reserved for overlays, by vdev. */
  readonly reserved: ReadonlyMap<string, number>;
  /** Lines may be lost. */
  readonly lossy: boolean;
}

/** Whether there may be snapshots by QEMU. Before it is noted that they come next, a tag or an overlay is another's. */
export function mayNeedQemu({ disks }: CreateHead, steps: DiskSteps): boolean {
  return (steps.disks || steps.lossy) && qemuDisks(disks).length > 0;
}

/** Registers the undo of everything that there may be of the snapshots of disks. */
export function planLeftDisks(left: KilledCreate, steps: DiskSteps): void {
  const { host, head, phases } = left;
  const { mark } = head;
  const begun = steps.preparing || steps.lossy;
  const qemu = qemuDisks(head.disks);
  for (const disk of begun ? qemu : []) {
    if (disk.kind === 'external') {
      planReservationUndo(phases, disk, { mark, inode: () => steps.reserved.get(disk.vdev) });
    }
  }
  for (const disk of begun || steps.disks ? storedDisks(head.disks) : []) {
    const made = steps.prepared.get(disk.vdev);
    planDiskUndo(phases, disk.vdev, storedByHand(host, disk), () => undoStored(host, disk, { mark, made }));
  }
  for (const disk of mayNeedQemu(head, steps) ? qemu : []) {
    const reserved = reservedOf(head, steps, disk);
    planDiskUndo(phases, disk.vdev, qemuByHand(disk), () => undoLeftDisk(left, disk, reserved));
  }
}

/** Which file at an overlay's place is the create's own. */
function reservedOf({ mark }: CreateHead, { reserved, lossy }: DiskSteps, { vdev }: QemuDisk): Reserved {
  const inode = reserved.get(vdev);
  // Earlier versions noted none, and without syncs the note may be lost.
  return inode === undefined && (mark === '' || lossy) ? 'unknown' : { inode };
}

/** Undoes one disk's snapshot, as far as it exists: by the domain's QEMU if that has the image, else by qemu-img. */
async function undoLeftDisk(left: KilledCreate, disk: QemuDisk, reserved: Reserved): Promise<boolean> {
  const { host, domain, same, deviceModel } = left;
  const used = deviceModel?.imageOf(disk.vdev);
  const images = disk.kind === 'internal' ? [disk.image] : same ? [disk.overlay, disk.base] : [disk.overlay];
  if (domain !== undefined && left.noQemu !== undefined) {
    throw new EnvironmentError('NO_DEVICE_MODEL', 'its QEMU cannot be reached', { cause: left.noQemu });
  }
  if (domain !== undefined && deviceModel !== undefined && used !== undefined && images.includes(used)) {
    const undone = await undoDisk(host, domain.domid, deviceModel, disk);
    // What QEMU knows of an image that it has open is right; and the guest is stopped in the meantime.
    if (undone || disk.kind === 'internal') return undone;
  }
  // What a guest that kept running has written is in its base by now.
  return await undoIdleDisk(host, disk, { merge: !same, reserved });
}
