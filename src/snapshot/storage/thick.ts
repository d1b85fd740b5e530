/**
 * Snapshots of plain (thick) volumes of LVM: what the guest overwrites is first copied to a store, a volume of the same group.
 * Unless the cfgfile wants a smaller one, the store is as large as the volume can ever need, so that it cannot overflow, which would
 * lose the snapshot.
 *
 * A revert never merges, since that uses up the snapshot. It writes back what differs, which may be done twice, after another
 * snapshot, D.safety-MARK, that an undo writes back from.
 */
import type { StoreSize } from '../../config/config.ts';
import { DiskError, RecoverError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { Risk } from '../risks.ts';
import type { Look } from './look.ts';
import type {
  DiskPlace,
  DiskStorage,
  PlannedSnapshot,
  PrepareSteps,
  RevertSteps,
  WantedSnapshot,
} from './port.ts';
import { partsOf, quoteVolume, type VolumeName, VolumeStorage } from './volume-storage.ts';
import type { Volume, VolumeList } from './volumes.ts';

/** A chunk of a store, and how many entries about chunks are in one (drivers/md/dm-snap-persistent.c), in bytes. */
const CHUNK = 4096;
const ENTRIES = CHUNK / 16;
/** More than an extent, to which sizes are rounded up. */
const SPARE = 8 * 2 ** 20;

export class ThickStorage extends VolumeStorage implements DiskStorage {
  readonly name = 'lvm-thick';
  readonly noun = 'LVM snapshot';

  async examine(vdev: string, place: DiskPlace, look: Look): Promise<readonly Problem[] | undefined> {
    const volume = await this.volumeOf(place, look);
    if (volume?.kind !== 'linear') return undefined;
    return await this.commonObstacles(vdev, volume);
  }

  async plan(place: DiskPlace, wanted: WantedSnapshot, look: Look): Promise<PlannedSnapshot> {
    const { disk, problems, volume } = await this.planVolume(place, wanted, look);
    const most = storeSize(volume.size);
    const store = Math.min(most, bytesOf(wanted.cow, volume.size) ?? most);
    const warnings =
      store === most
        ? []
        : [
            `disk ${wanted.vdev}: its snapshot has room for ${mib(store)} that the guest overwrites; once there is more, the snapshot is lost`,
          ];
    return { disk: { ...disk, store }, problems, warnings };
  }

  /** A group's free space is shared by all stores that an operation makes in it. */
  async together(
    disks: readonly StorageDisk[],
    what: 'create' | 'revert',
    look: Look,
  ): Promise<readonly Problem[]> {
    const list = await this.listed(look);
    const wanted = new Map<string, { readonly disk: StorageDisk; readonly bytes: number }[]>();
    for (const disk of disks) {
      const bytes = what === 'create' ? (disk.store ?? 0) : safetyFor(disk, list);
      const { group } = partsOf(disk.image);
      wanted.set(group, [...(wanted.get(group) ?? []), { disk, bytes }]);
    }
    const problems: Problem[] = [];
    for (const [group, needs] of wanted) {
      const free = list.free.get(group) ?? 0;
      if (needs.reduce((sum, { bytes }) => sum + bytes, 0) <= free) continue;
      const each = needs.map(({ disk, bytes }) => `${mib(bytes)} for ${disk.vdev}`).join(', ');
      const store = what === 'create' ? 'the snapshots need' : 'the safety copies of a revert need';
      const smaller =
        what === 'create'
          ? `, or make the store smaller than the disk: ',,${needs[0]?.disk.vdev},cow=SIZE' in a cfgfile`
          : '';
      problems.push({
        code: 'LVM_NO_ROOM',
        message: `the volume group ${group} has ${mib(free, Math.floor)} free, and ${store} ${each}`,
        hint: `enlarge the group with vgextend, or remove volumes that are not needed${smaller}`,
      });
    }
    return problems;
  }

  /** Creates the store, and wipes its beginning: a snapshot then takes one step. */
  async prepare(disk: StorageDisk, steps: PrepareSteps): Promise<void> {
    const { size } = await this.noteOrigin(disk, steps);
    const { group, name } = partsOf(disk.snapshot);
    await this.volumes.createStore(group, name, disk.store ?? storeSize(size));
  }

  async take({ image, snapshot }: StorageDisk): Promise<void> {
    const { group, name } = partsOf(image);
    await this.volumes.snapshotThick(group, name, partsOf(snapshot).name, { keep: true });
  }

  async finish(disk: StorageDisk, made: string | undefined) {
    const { vdev, image, snapshot } = disk;
    await this.volumes.settle();
    const there = await this.taken(disk, made);
    if (!isSound(there)) {
      throw new DiskError('NO_SNAPSHOT', `disk ${vdev}: ${snapshot} is not a sound snapshot of ${image}`, {
        hint: 'its store was full at once: give it more room with cow=',
      });
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
    if (there !== undefined) risks.push(...(await this.#crowdedOut(vdev, volume, there)));
    if (then !== undefined && volume.size !== then.virtualSize) {
      risks.push({
        risk: 'disk-resized',
        message: `disk ${vdev}: ${image} now has ${volume.size} bytes; at the snapshot the guest saw ${then.virtualSize}`,
        vdev,
      });
    }
    return { problems, risks };
  }

  /** Other snapshots of the volume keep what is written back over: one whose store is too small for that would be lost. */
  async #crowdedOut(vdev: string, volume: Volume, source: Volume): Promise<readonly Risk[]> {
    const written = usedBytes(source);
    const { volumes } = await this.volumes.list();
    return volumes
      .filter(({ kind, originUuid }) => kind === 'snapshot' && originUuid === volume.uuid)
      .filter(({ uuid, invalid }) => uuid !== source.uuid && !invalid)
      .filter(
        (other) => other.size < storeSize(volume.size) - SPARE && other.size - usedBytes(other) < written,
      )
      .map((other) => ({
        risk: 'later-snapshot' as const,
        message: `disk ${vdev}: ${other.group}/${other.name} has ${mib(other.size - usedBytes(other), Math.floor)} of room left, and the revert may need ${mib(written)} there: it would be lost`,
        vdev,
      }));
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
    await this.volumes.snapshotThick(group, name, safety.name, { keep: false });
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
    await this.volumes.remove(safety);
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

/** Bytes of a store that are in use, at most: lvs rounds. */
function usedBytes({ size, usedPercent }: Volume): number {
  return Math.ceil((size * Math.min(100, usedPercent + 0.1)) / 100);
}

/** Room for a safety snapshot of a disk's volume; 0 if its snapshot no longer exists. */
function safetyFor({ snapshot }: StorageDisk, { volumes }: VolumeList): number {
  const wanted = partsOf(snapshot);
  const there = volumes.find(({ group, name }) => group === wanted.group && name === wanted.name);
  return there === undefined ? 0 : safetySize(there);
}

/** Size of a store for what is written back from a snapshot, in bytes: as much as its own holds. */
function safetySize(source: Volume): number {
  return usedBytes(source) + SPARE;
}

function bytesOf(cow: StoreSize | undefined, size: number): number | undefined {
  if (cow === undefined) return undefined;
  return 'bytes' in cow ? cow.bytes : Math.ceil((size * cow.percent) / 100);
}

function mib(bytes: number, round: (value: number) => number = Math.ceil): string {
  return `${round(bytes / 2 ** 20)} MiB`;
}

function isSound({ kind, invalid }: Volume): boolean {
  return kind === 'snapshot' && !invalid;
}
