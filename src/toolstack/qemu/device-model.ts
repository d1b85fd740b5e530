/** Implements the port `DeviceModel` by QMP. */
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Domid } from '../../core/brand.ts';
import type { Limits } from '../../core/deadline.ts';
import { DiskError, describeError, OutputError } from '../../core/errors.ts';
import { lstatMaybe } from '../../core/files.ts';
import { COMMAND_TIMEOUT_MS, QmpClient, qmpSocketPaths } from '../../qmp/client.ts';
import {
  type BlockDevice,
  type BlockNode,
  cont,
  deleteInternalSnapshot,
  queryBlock,
  saveDevicesState,
  setGlobalDirtyLog,
  stop,
  transaction,
} from '../../qmp/commands.ts';
import { QmpClosedError, QmpCommandError } from '../../qmp/errors.ts';
import { truePath } from '../../snapshot/images/chain.ts';
import type { DeviceModel, DiskAction, MergeOptions, OverlayMerge } from '../../snapshot/ports.ts';
import { externalAction, internalAction, type ResolvedDisk } from './disks.ts';
import { plainPath } from './images.ts';
import { deleteLeftNode, mergeNode } from './merge.ts';

/**
 * Opens a session with the domain's QEMU.
 * @returns `undefined` if there is no QMP socket: a PV or PVH domain without qdisks has no QEMU
 * @throws {QmpError} If there is a socket and nobody answers.
 */
export async function connectQemu(domid: Domid): Promise<QmpClient | undefined> {
  const sockets = qmpSocketPaths(domid).filter((path) => existsSync(path));
  return sockets.length === 0 ? undefined : await QmpClient.connectFirst(sockets);
}

/** Implements the port `DeviceModel` by QMP. Owns the session, and opens another one if it broke. */
export class QemuDeviceModel implements DeviceModel {
  #qmp: QmpClient;
  readonly #disks: readonly ResolvedDisk[];
  readonly #limits: Limits;

  /**
   * Takes a session.
   * @param limits for the transaction, and for finding out what became of it
   */
  constructor(
    qmp: QmpClient,
    disks: readonly ResolvedDisk[],
    limits: Limits = { timeoutMs: COMMAND_TIMEOUT_MS },
  ) {
    this.#qmp = qmp;
    this.#disks = disks;
    this.#limits = limits;
  }

  imageOf(vdev: string): string | undefined {
    return this.#disks.find((disk) => disk.vdev === vdev)?.path;
  }

  async stop(): Promise<void> {
    await stop(await this.#session());
  }

  async cont(): Promise<void> {
    await cont(await this.#session());
    // A killed process may have left it.
    await rm(this.#stateDirectory, { recursive: true, force: true });
  }

  async logDirty(on: boolean): Promise<void> {
    try {
      await setGlobalDirtyLog(await this.#session(), on);
    } catch (error) {
      // A session that broke may mean that QEMU has ended; opening another one shows that. The command is not
      // sent again: only pairs are safe to repeat.
      if (error instanceof QmpClosedError) await this.#session();
      throw error;
    }
  }

  async saveState(): Promise<Uint8Array> {
    // QEMU creates the file with its own umask, so the directory must keep it private.
    const directory = this.#stateDirectory;
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { mode: 0o700 });
    try {
      const path = join(directory, 'devices');
      await saveDevicesState(await this.#session(), path);
      return await readFile(path);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  async prepareSnapshot(vdev: string): Promise<void> {
    await this.#deleteLeftNode(vdev);
  }

  async snapshotDisks(actions: readonly DiskAction[]): Promise<void> {
    const parts = actions.map((action) => {
      const disk = this.#disk(action.vdev);
      const part =
        action.kind === 'internal' ? internalAction(disk, action.tag) : externalAction(disk, action.path);
      if (part === undefined) throw noNode(action.vdev);
      return part;
    });
    const before = await this.#taken(actions);
    const overlays = await reserveOverlays(actions);
    try {
      await transaction(await this.#session(), parts, this.#limits);
    } catch (error) {
      if (!(error instanceof QmpCommandError)) await this.#takeBack(actions, before, error);
      // QEMU leaves the overlays that it has written to.
      await removeOverlays(overlays);
      throw error;
    }
  }

  async undoSnapshots(actions: readonly DiskAction[]): Promise<readonly DiskAction[]> {
    const undone: DiskAction[] = [];
    const devices = await queryBlock(await this.#session(), this.#limits);
    for (const action of actions) {
      const disk = this.#disk(action.vdev);
      if (disk.node === undefined) throw noNode(action.vdev);
      const node = takenOn(devices, disk, action);
      if (node === undefined) continue;
      await this.#deleteLeftNode(action.vdev);
      const [base] = node.backingFiles;
      if (action.kind === 'internal') {
        await deleteInternalSnapshot(await this.#session(), node.nodeName, action.tag);
      } else if (base !== undefined) {
        const merge = { vdev: action.vdev, node, below: base };
        await mergeNode(await this.#session(), merge, this.#limits);
        await rm(action.path, { force: true });
      }
      undone.push(action);
    }
    return undone;
  }

  async mergeOverlay(
    { vdev, overlay, base }: OverlayMerge,
    { signal, onProgress, beforeSwitch, onWarning }: MergeOptions = {},
  ): Promise<boolean> {
    const devices = await queryBlock(await this.#session(), this.#limits);
    const node = takenOn(devices, this.#disk(vdev), { kind: 'external', vdev, path: overlay });
    await this.#deleteLeftNode(vdev);
    if (node === undefined) return false;
    const [below] = node.backingFiles;
    if (below === undefined || (await truePath(plainPath(below))) !== (await truePath(base))) {
      throw new DiskError(
        'OTHER_IMAGE',
        `disk ${vdev}: QEMU has ${overlay} on ${below ?? 'no other image'}, not on ${base}`,
      );
    }
    await mergeNode(
      await this.#session(),
      { vdev, node, below },
      this.#limits,
      { signal },
      {
        onProgress: onProgress && (({ offset, length }) => onProgress(offset, length)),
        beforeSwitch,
        onWarning,
      },
    );
    return true;
  }

  /**
   * Undoes a transaction that got no answer, if it took place.
   * @throws {DiskError} If that cannot be found out or done; the message says what may be left.
   */
  async #takeBack(
    actions: readonly DiskAction[],
    before: readonly DiskAction[],
    error: unknown,
  ): Promise<void> {
    try {
      // QEMU carries out one command after the other: once it answers, the transaction is over.
      const taken = (await this.#taken(actions)).filter((action) => !before.includes(action));
      await this.undoSnapshots(taken);
    } catch (problem) {
      const left = actions.map((action) =>
        action.kind === 'external'
          ? `disk ${action.vdev} may be using the overlay ${action.path}`
          : `disk ${action.vdev} may have the snapshot ${action.tag} in its image`,
      );
      throw new DiskError(
        'DISKS_UNKNOWN',
        `it is unknown whether QEMU took the disk snapshots (${describeError(error)}; ${describeError(problem)}): ${left.join(', ')}`,
        {
          cause: error,
          hint:
            'check query-block over QMP before the domain is started again: where it names an overlay, that has the ' +
            "guest's latest data, while the domain's configuration names the base",
          data: { left },
        },
      );
    }
  }

  /**
   * Returns those of the snapshots that exist: the overlay is the disk's top node, or the tag is in its
   * image.
   */
  async #taken(actions: readonly DiskAction[]): Promise<readonly DiskAction[]> {
    const devices = await queryBlock(await this.#session(), this.#limits);
    return actions.filter((action) => takenOn(devices, this.#disk(action.vdev), action) !== undefined);
  }

  async #deleteLeftNode(vdev: string): Promise<void> {
    await deleteLeftNode(await this.#session(), this.#disk(vdev), this.#limits);
  }

  /** Returns a working session: one that broke must not keep the guest stopped, or its disks half changed. */
  async #session(): Promise<QmpClient> {
    if (this.#qmp.state === 'closed') this.#qmp = await QmpClient.connect(this.#qmp.path);
    return this.#qmp;
  }

  /** A directory beside the sockets, which all are in one. */
  get #stateDirectory(): string {
    const { path } = this.#qmp;
    return join(dirname(path), `xlsnap-state-${basename(path).split('-').at(-1)}`);
  }

  #disk(vdev: string): ResolvedDisk {
    const disk = this.#disks.find((candidate) => candidate.vdev === vdev);
    if (disk === undefined) throw noNode(vdev);
    return disk;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#qmp.close();
  }
}

/**
 * Returns the node that has the action's snapshot, if it was taken: the overlay, or the image with the tag.
 */
function takenOn(
  devices: readonly BlockDevice[],
  { node, overlayNode }: ResolvedDisk,
  action: DiskAction,
): BlockNode | undefined {
  // A disk that was resolved after the snapshot has the overlay as its own node.
  const found = devices.find(({ inserted }) =>
    action.kind === 'external'
      ? inserted !== undefined &&
        [node, overlayNode].includes(inserted.nodeName) &&
        plainPath(inserted.file) === action.path
      : inserted?.nodeName === node && inserted?.tags.includes(action.tag),
  );
  return found?.inserted;
}

/** An overlay's file, by its inode number. */
interface OverlayFile {
  readonly path: string;
  readonly inode: number;
}

/**
 * Creates the overlays that are not reserved as empty files, which QEMU then writes to. QEMU itself would overwrite existing files,
 * and create files that everyone can read.
 */
async function reserveOverlays(actions: readonly DiskAction[]): Promise<readonly OverlayFile[]> {
  const made: OverlayFile[] = [];
  try {
    for (const action of actions) {
      if (action.kind !== 'external') continue;
      const { path, reserved } = action;
      if (reserved !== undefined) {
        const there = await lstatMaybe(path);
        if (there?.ino !== reserved || there.size > 0) {
          throw new Error(`${path} is not the empty file that was reserved for it`);
        }
        continue;
      }
      await using file = await open(path, 'wx', 0o600);
      made.push({ path, inode: (await file.stat()).ino });
    }
  } catch (cause) {
    await removeOverlays(made);
    throw new OutputError('OVERLAY', 'cannot create the overlays', { cause });
  }
  const reserved = actions.flatMap((action) =>
    action.kind === 'external' && action.reserved !== undefined
      ? [{ path: action.path, inode: action.reserved }]
      : [],
  );
  return [...made, ...reserved];
}

/** Removes overlays that no QEMU uses; another program's file in the place of one stays. */
async function removeOverlays(overlays: readonly OverlayFile[]): Promise<void> {
  for (const { path, inode } of overlays) {
    if ((await lstatMaybe(path))?.ino === inode) await rm(path, { force: true });
  }
}

function noNode(vdev: string): DiskError {
  return new DiskError('DISK_NO_NODE', `disk ${vdev}: QEMU has no block node for it`);
}
