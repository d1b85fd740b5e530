import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Domid } from '../core/brand.ts';
import { DiskError } from '../core/errors.ts';
import { QmpClient, qmpSocketPaths } from '../qmp/client.ts';
import {
  commitOverlay,
  cont,
  deleteInternalSnapshot,
  saveDevicesState,
  stop,
  transaction,
} from '../qmp/commands.ts';
import { QmpCommandError } from '../qmp/errors.ts';
import type { DeviceModel, DiskAction } from '../snapshot/ports.ts';
import { externalAction, internalAction, type ResolvedDisk } from './disks.ts';

/**
 * A session with the domain's QEMU.
 * @returns undefined when there is no QMP socket: a PV or PVH domain without qdisks has no QEMU
 * @throws QmpError when there is one and nobody answers
 */
export async function connectQemu(domid: Domid): Promise<QmpClient | undefined> {
  const sockets = qmpSocketPaths(domid).filter((path) => existsSync(path));
  return sockets.length === 0 ? undefined : await QmpClient.connectFirst(sockets);
}

/** The device model port on QMP. Owns the session. */
export class QemuDeviceModel implements DeviceModel {
  readonly #qmp: QmpClient;
  readonly #disks: readonly ResolvedDisk[];

  constructor(qmp: QmpClient, disks: readonly ResolvedDisk[]) {
    this.#qmp = qmp;
    this.#disks = disks;
  }

  async stop(): Promise<void> {
    await stop(this.#qmp);
  }

  async cont(): Promise<void> {
    await cont(this.#qmp);
  }

  async saveState(): Promise<Uint8Array> {
    // QEMU makes the file with its own umask, so the directory has to keep it private.
    const directory = await mkdtemp(join(dirname(this.#qmp.path), 'xlsnap-'));
    try {
      const path = join(directory, 'devices');
      await saveDevicesState(this.#qmp, path);
      return await readFile(path);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  async snapshotDisks(actions: readonly DiskAction[]): Promise<void> {
    const parts = actions.map((action) => {
      const disk = this.#disk(action.vdev);
      const part =
        action.kind === 'internal' ? internalAction(disk, action.tag) : externalAction(disk, action.path);
      if (part === undefined) throw noNode(action.vdev);
      return part;
    });
    try {
      await transaction(this.#qmp, parts);
    } catch (error) {
      // QEMU leaves the overlays that it made behind. After a time-out they may be in use.
      if (error instanceof QmpCommandError) {
        for (const action of actions) if (action.kind === 'external') await rm(action.path, { force: true });
      }
      throw error;
    }
  }

  async undoSnapshots(actions: readonly DiskAction[]): Promise<void> {
    for (const action of actions) {
      const disk = this.#disk(action.vdev);
      if (action.kind === 'external') {
        await commitOverlay(this.#qmp, disk.overlayNode);
        await rm(action.path, { force: true });
      } else if (disk.node !== undefined) {
        await deleteInternalSnapshot(this.#qmp, disk.node, action.tag);
      }
    }
  }

  #disk(vdev: string): ResolvedDisk {
    const disk = this.#disks.find((one) => one.vdev === vdev);
    if (disk === undefined) throw noNode(vdev);
    return disk;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#qmp.close();
  }
}

function noNode(vdev: string): DiskError {
  return new DiskError('DISK_NO_NODE', `disk ${vdev}: QEMU has no block node for it`);
}
