/** Takes the disks that QEMU snapshots, inside their images and by overlays on them: all in one transaction. */
import type { Domid } from '../../core/brand.ts';
import { EnvironmentError, OutputError, XlsnapError } from '../../core/errors.ts';
import { lstatMaybe, type Reservation, removeReserved, reserveFile } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { DiskIdentity, ExternalDisk, QemuDisk, SnapshotDisk } from '../../memfile/manifest.ts';
import { wasDestroyed } from '../guest/gone.ts';
import { identifyDisk } from '../images/identity.ts';
import { isTaken, type Reserved, undoIdleDisk } from '../images/idle-disk.ts';
import type { Phases } from '../phases.ts';
import type { DeviceModel, DiskAction, Host } from '../ports.ts';
import { type CreateJournal, noteFor } from './journal.ts';
import type { CreateRun } from './open.ts';
import type { Taker } from './takers.ts';
import { planDiskUndo } from './undo.ts';

/** How long to wait, with the guest stopped, for another program that holds the stored configuration. */
const CONFIG_LOCK_MS = 2000;
/** How long changing it may take in all: its storage or xenstored may hang. */
const CONFIG_MS = 10_000;

export class QemuTaker implements Taker {
  readonly flushes = false;
  readonly #run: CreateRun;
  readonly #journal: CreateJournal;
  readonly #disks: readonly QemuDisk[];
  readonly #deviceModel: DeviceModel;
  /** Inode numbers of the files that are reserved for overlays, by vdev. */
  readonly #reserved = new Map<string, number>();

  constructor(run: CreateRun, journal: CreateJournal, disks: readonly QemuDisk[], deviceModel: DeviceModel) {
    this.#run = run;
    this.#journal = journal;
    this.#disks = disks;
    this.#deviceModel = deviceModel;
  }

  get #overlays(): readonly ExternalDisk[] {
    return this.#disks.filter((disk) => disk.kind === 'external');
  }

  /**
   * Has QEMU close what earlier merges have left open, and creates the empty files that it is to write overlays to: it would
   * overwrite what is there by then.
   */
  async prepare(): Promise<void> {
    const { phases, context, mark } = this.#run;
    for (const { vdev } of this.#disks) {
      phases.checkpoint();
      await this.#deviceModel.prepareSnapshot?.(vdev);
    }
    for (const disk of this.#overlays) {
      phases.checkpoint();
      const { vdev } = disk;
      planReservationUndo(phases, disk, { mark, inode: () => this.#reserved.get(vdev) });
      await reserveOverlay(disk, {
        mark,
        note: async (inode) => {
          this.#reserved.set(vdev, inode);
          await noteFor(context.plan, this.#journal, { step: 'reserved', vdev, inode });
        },
      });
    }
  }

  /** QEMU flushes its images itself, and takes no snapshot before it has. */
  async flush(): Promise<void> {}

  async take(): Promise<void> {
    const { context, host, phases } = this.#run;
    const { domid } = context.domain;
    const deviceModel = this.#deviceModel;
    // Before, not after: if QEMU fails half-way, they may have been taken.
    const forget = this.#disks.map((disk) =>
      planDiskUndo(phases, disk.vdev, qemuByHand(disk), () =>
        undoTakenDisk(host, domid, deviceModel, disk, { inode: this.#reserved.get(disk.vdev) }),
      ),
    );
    try {
      await deviceModel.snapshotDisks(
        this.#disks.map((disk) => toAction(disk, this.#reserved.get(disk.vdev))),
      );
    } catch (error) {
      // None was taken, so a tag of that name is another program's.
      if (error instanceof XlsnapError && error.code !== 'DISKS_UNKNOWN') for (const one of forget) one();
      throw error;
    }
    phases.checkpoint();
    const overlays = this.#overlays.map(({ vdev, overlay }) => ({ vdev, path: overlay, format: 'qcow2' }));
    // While the guest is stopped: it must never run with a configuration that names the base.
    if (overlays.length === 0) return;
    const repoint = (): Promise<void> =>
      host.toolstack.repointDisks(domid, overlays, { lockTimeoutMs: CONFIG_LOCK_MS });
    await phases.bounded(repoint, CONFIG_MS, configHangsError);
  }

  /** QEMU's transaction has made them durable. */
  async complete(): Promise<void> {}

  async identify(): Promise<readonly DiskIdentity[]> {
    const found = await Promise.all(this.#disks.map((disk) => identifyDisk(this.#run.host, disk)));
    return found.filter((identity) => identity !== undefined);
  }
}

export function qemuDisks(disks: readonly SnapshotDisk[]): readonly QemuDisk[] {
  return disks.filter((disk) => disk.kind !== 'storage');
}

async function reserveOverlay({ overlay }: ExternalDisk, reservation: Reservation): Promise<void> {
  try {
    await reserveFile(overlay, reservation);
  } catch (cause) {
    if (cause instanceof XlsnapError) throw cause;
    throw new OutputError('OVERLAY', `cannot create the overlay ${overlay}`, { cause });
  }
}

function configHangsError(timeoutMs: number): EnvironmentError {
  return new EnvironmentError(
    'CONFIG_HANGS',
    `the stored configuration could not be made to name the overlays within ${timeoutMs / 1000} s`,
    { hint: 'does the storage of /var/lib/xen hang, or xenstored?' },
  );
}

/** @param reserved the inode number of the file that was reserved for an overlay */
function toAction(disk: QemuDisk, reserved?: number): DiskAction {
  return disk.kind === 'internal'
    ? { kind: 'internal', vdev: disk.vdev, tag: disk.tag }
    : {
        kind: 'external',
        vdev: disk.vdev,
        path: disk.overlay,
        ...(reserved === undefined ? {} : { reserved }),
      };
}

/**
 * Registers the removal of the file that is reserved for an overlay, as long as QEMU has not written to it.
 * @param reservation `inode`: what was noted of it
 */
export function planReservationUndo(
  phases: Phases,
  { overlay }: ExternalDisk,
  { mark, inode }: { readonly mark: string; readonly inode: () => number | undefined },
): void {
  phases.onUndo(`removed ${overlay}`, `rm ${shellQuote(overlay)}, if it is empty`, async () => {
    const used = ((await lstatMaybe(overlay))?.size ?? 0) > 0;
    return await removeReserved(overlay, { mark, inode: used ? undefined : inode() });
  });
}

/** Undoes one disk's snapshot, if it was taken: by its QEMU, or without if the domain has been destroyed since. */
async function undoTakenDisk(
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

/** How to undo it by hand, for a shell. */
export function qemuByHand(disk: QemuDisk): string {
  return disk.kind === 'internal'
    ? `with the domain down, qemu-img snapshot -d ${shellQuote(disk.tag)} ${shellQuote(disk.image)}`
    : `the domain keeps using ${disk.overlay}: do not remove it`;
}
