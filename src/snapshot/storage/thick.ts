/**
 * Snapshots of plain (thick) volumes of LVM: what the guest overwrites is first copied to a store, a volume of the same group. The
 * store is as large as the volume can ever need, so it cannot overflow, which would lose the snapshot.
 *
 * A revert never merges, since that uses up the snapshot. It writes back what differs, which may be done twice, after another
 * snapshot, D.safety-MARK, that an undo writes back from.
 */
import { DiskError, RecoverError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { Risk } from '../risks.ts';
import type { DiskPlace, DiskStorage, RevertSteps } from './port.ts';
import { isKept, partsOf, quoteVolume, type VolumeName, VolumeStorage } from './volume-storage.ts';
import type { Volume } from './volumes.ts';

/** A chunk of a store, and how many entries about chunks are in one (drivers/md/dm-snap-persistent.c), in bytes. */
const CHUNK = 4096;
const ENTRIES = CHUNK / 16;
/** More than an extent, to which sizes are rounded up. */
const SPARE = 8 * 2 ** 20;

export class ThickStorage extends VolumeStorage implements DiskStorage {
  readonly name = 'lvm-thick';
  readonly noun = 'LVM snapshot';

  async examine(vdev: string, place: DiskPlace): Promise<readonly Problem[] | undefined> {
    if (place.kind !== 'device') return undefined;
    const volume = await this.volumes.at(place);
    if (volume?.kind !== 'linear') return undefined;
    const room = await this.#roomProblems(vdev, volume, storeSize(volume.size), 'a snapshot');
    return [...(await this.commonObstacles(vdev, volume)), ...room];
  }

  async #roomProblems(
    vdev: string,
    { group, name }: VolumeName,
    wanted: number,
    what: string,
  ): Promise<readonly Problem[]> {
    const free = await this.volumes.free(group);
    if (free >= wanted) return [];
    const mib = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
    return [
      {
        code: 'LVM_NO_ROOM',
        message: `disk ${vdev}: the volume group ${group} has ${mib(free)} free, and ${what} of ${name} needs ${mib(wanted)}`,
        hint: 'enlarge the group with vgextend, remove volumes that are not needed, or move the disk to a thin volume',
      },
    ];
  }

  /** Creates the store, and wipes its beginning: a snapshot then takes one step. */
  async prepare({ image, snapshot }: StorageDisk): Promise<undefined> {
    const volume = await this.volumeAt(image);
    if (volume === undefined) throw new DiskError('NO_VOLUME', `there is no volume ${image}`);
    const { group, name } = partsOf(snapshot);
    await this.volumes.createStore(group, name, storeSize(volume.size));
  }

  async take({ image, snapshot }: StorageDisk): Promise<void> {
    const { group, name } = partsOf(image);
    await this.volumes.snapshotThick(group, name, partsOf(snapshot).name);
  }

  async finish({ vdev, image, snapshot }: StorageDisk) {
    await this.volumes.settle();
    const there = await this.volumeAt(snapshot);
    if (there === undefined || !isKept(there) || !isSound(there)) {
      throw new DiskError('NO_SNAPSHOT', `disk ${vdev}: LVM has no sound snapshot ${snapshot} of ${image}`);
    }
    const origin = await this.volumeAt(image);
    return { identity: there.uuid, virtualSize: origin?.size ?? 0 };
  }

  async check(
    disk: StorageDisk,
    then: { readonly identity: string; readonly virtualSize: number } | undefined,
  ): Promise<{ readonly problems: readonly Problem[]; readonly risks: readonly Risk[] }> {
    const { vdev, image, snapshot } = disk;
    const problems = await this.snapshotProblems(disk, then?.identity);
    const risks: Risk[] = [];
    const there = problems.length > 0 ? undefined : await this.volumeAt(snapshot);
    if (there !== undefined && !isSound(there)) {
      problems.push({
        code: 'SNAPSHOT_INVALID',
        message: `disk ${vdev}: ${snapshot} is no valid snapshot any more: its store was full, or it was merged`,
        hint: 'the memory has no disk to go with it: delete the snapshot',
      });
    }
    const volume = await this.volumeAt(image);
    if (volume === undefined) {
      problems.push({ code: 'NO_IMAGE', message: `disk ${vdev}: the volume ${image} no longer exists` });
      return { problems, risks };
    }
    problems.push(...(await this.commonObstacles(vdev, volume)));
    if (there !== undefined) {
      problems.push(...(await this.#roomProblems(vdev, volume, safetySize(there), 'the safety copy')));
    }
    if (then !== undefined && volume.size !== then.virtualSize) {
      risks.push({
        risk: 'disk-resized',
        message: `disk ${vdev}: ${image} now has ${volume.size} bytes; at the snapshot the guest saw ${then.virtualSize}`,
        vdev,
      });
    }
    return { problems, risks };
  }

  async revert(
    { image, snapshot }: StorageDisk,
    { mark, checkFree }: RevertSteps,
    note: (made: string) => Promise<void>,
  ): Promise<void> {
    const volume = partsOf(image);
    const { group, name } = volume;
    const safety = safetyOf(volume, mark);
    const source = await this.volumeAt(snapshot);
    if (source === undefined) throw new DiskError('NO_SNAPSHOT', `${snapshot} no longer exists`);
    await checkFree();
    await this.release(volume);
    await this.volumes.activate(group, name);
    await this.volumes.createStore(group, safety.name, safetySize(source));
    await this.volumes.snapshotThick(group, name, safety.name);
    await this.volumes.settle();
    const made = await this.volumes.byName(group, safety.name);
    if (made === undefined || !isSound(made))
      throw new DiskError('LVM', `${group}/${safety.name} is not sound`);
    await note(made.uuid);
    await checkFree();
    await this.volumes.writeBack(group, partsOf(snapshot).name, name);
  }

  async undoRevert(
    { image }: StorageDisk,
    { mark, checkFree }: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean> {
    const volume = partsOf(image);
    const { group, name } = volume;
    const safety = await this.volumes.byName(group, safetyOf(volume, mark).name);
    if (safety === undefined) return false;
    // Until that is noted nothing was written back.
    if (safety.kind === 'snapshot' && made !== undefined) {
      if (!isSound(safety)) {
        throw new RecoverError(
          'SAFETY_LOST',
          `${group}/${safety.name} is not valid, so ${image} cannot be put back`,
        );
      }
      await checkFree();
      await beforeChange();
      await this.release(volume);
      await this.volumes.writeBack(group, safety.name, name);
    }
    await this.volumes.remove(group, safety.name);
    return true;
  }

  protected formerOf(volume: VolumeName, mark: string): VolumeName {
    return safetyOf(volume, mark);
  }

  byHand({ image, snapshot }: StorageDisk, what: Parameters<DiskStorage['byHand']>[1], mark: string): string {
    const volume = partsOf(image);
    const safety = quoteVolume(safetyOf(volume, mark));
    switch (what) {
      case 'undo':
      case 'remove':
        return `lvremove ${quoteVolume(partsOf(snapshot))}`;
      case 'undo-revert':
        return `with the domain down, lvconvert --merge ${safety}, if it exists`;
      case 'forget':
        return `lvremove ${safety}`;
    }
  }
}

function safetyOf({ group, name }: VolumeName, mark: string): VolumeName {
  return { group, name: `${name}.safety-${mark}` };
}

/** Size of a store that can hold all of a volume, in bytes: each chunk, an entry for each, and a header. */
function storeSize(size: number): number {
  const chunks = Math.ceil(size / CHUNK);
  return size + (Math.ceil(chunks / ENTRIES) + 1) * CHUNK + SPARE;
}

/** Size of a store for what is written back from a snapshot, in bytes: as much as its own holds, which lvs rounds. */
function safetySize({ size, usedPercent }: Volume): number {
  return Math.ceil((size * Math.min(100, usedPercent + 0.1)) / 100) + SPARE;
}

function isSound({ kind, invalid }: Volume): boolean {
  return kind === 'snapshot' && !invalid;
}
