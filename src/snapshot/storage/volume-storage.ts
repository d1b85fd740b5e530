/** What the storages of LVM share: names of volumes, and all that does not depend on how a snapshot is made. */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError, RecoverError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { Look } from './look.ts';
import type { DiskPlace, PrepareSteps, WantedSnapshot } from './port.ts';
import { VOLUME_TAG, type Volume, type VolumeList, type Volumes } from './volumes.ts';

/** A name of the device mapper has 127 bytes (DM_NAME_LEN); hyphens count twice. */
const MAX_DEVICE_NAME = 127;
/** Longest part that is taken from a snapshot's name. */
const MAX_PART = 40;
/** Length of `.before-MARK` or `.safety-MARK`, whose hyphens count twice. */
const MARK_BYTES = 34;
/** How long blkback may keep a volume open whose domain no longer exists, in milliseconds. */
const RELEASE_MS = 15_000;
const POLL_MS = 200;

/** A volume by its names. */
export interface VolumeName {
  readonly group: string;
  readonly name: string;
}

export interface VolumeStorageOptions {
  /** Directory of the groups' own directories. Default: `/dev`. */
  readonly devices?: string;
  /** How long to wait until nobody has a volume open, in milliseconds. Default: 15,000. */
  readonly releaseMs?: number;
}

export abstract class VolumeStorage {
  abstract readonly name: string;
  protected readonly volumes: Volumes;
  readonly #devices: string;
  readonly #releaseMs: number;

  constructor(volumes: Volumes, { devices = '/dev', releaseMs = RELEASE_MS }: VolumeStorageOptions = {}) {
    this.volumes = volumes;
    this.#devices = devices;
    this.#releaseMs = releaseMs;
  }

  /** The volume that a disk lies on; `undefined` if it lies on none. */
  protected async volumeOf(place: DiskPlace, look: Look): Promise<Volume | undefined> {
    const uuid = place.kind === 'device' ? await this.volumes.uuidAt(place) : undefined;
    if (uuid === undefined) return undefined;
    return (await this.listed(look)).volumes.find((volume) => volume.uuid === uuid);
  }

  protected async listed(look: Look): Promise<VolumeList> {
    return await look.once(this.volumes, () => this.volumes.list());
  }

  /** The obstacles that all volumes share. */
  protected async commonObstacles(vdev: string, { group, name, merging }: Volume): Promise<Problem[]> {
    const problems: Problem[] = [];
    const reason = await this.volumes.obstacle();
    if (reason !== undefined) {
      problems.push({
        code: 'LVM_CANNOT',
        message: `disk ${vdev}: LVM cannot create volumes: ${reason}`,
        hint: 'repair that first',
      });
    }
    if (merging) {
      problems.push({
        code: 'LVM_MERGING',
        message: `disk ${vdev}: a snapshot is being merged into ${group}/${name}`,
        hint: 'wait until lvs shows none',
      });
    }
    return problems;
  }

  /** Plans a snapshot in the disk's group, with random digits in its name. */
  protected async planVolume(place: DiskPlace, { vdev, name, path }: WantedSnapshot, look: Look) {
    const volume = await this.volumeOf(place, look);
    if (volume === undefined) throw new DiskError('NO_VOLUME', `disk ${vdev}: ${place.path} is no volume`);
    const { group } = volume;
    const snapshot = `${volume.name}.${inAlphabet(name)}-${randomBytes(3).toString('hex')}`;
    const image = this.pathOf(group, volume.name);
    const problems: Problem[] = [];
    if (path !== undefined) {
      problems.push({
        code: 'NOT_A_RAW_FILE',
        message: `disk ${vdev}: ${image} is a volume of LVM, which cannot be cloned to a file`,
        hint: `write ',,${vdev}' for a snapshot in its volume group`,
      });
    }
    const longest = Math.max(
      deviceName(group, volume.name).length + MARK_BYTES,
      deviceName(group, snapshot).length,
    );
    if (longest > MAX_DEVICE_NAME) {
      problems.push({
        code: 'NAME_TOO_LONG',
        message: `disk ${vdev}: the name of ${group}/${volume.name} leaves no room for names of its snapshots`,
        hint: 'LVM allows 127 bytes for group and volume, and counts each hyphen twice: use a shorter name',
      });
    }
    const disk: StorageDisk = {
      kind: 'storage',
      vdev,
      storage: this.name,
      image,
      snapshot: this.pathOf(group, snapshot),
    };
    return { disk, problems, volume };
  }

  async flush({ image }: StorageDisk): Promise<void> {
    await this.volumes.flush(partsOf(image));
  }

  /** The name has random digits, so a volume that has it and our tag is ours. */
  async undo({ snapshot }: StorageDisk): Promise<boolean> {
    const there = await this.volumeAt(snapshot);
    if (there === undefined || !isKept(there)) return false;
    await this.volumes.remove(there);
    return true;
  }

  /** The disk's volume, whose uuid is noted: its name may be another's by the time when the snapshot is taken. */
  protected async noteOrigin({ image }: StorageDisk, { note }: PrepareSteps): Promise<Volume> {
    const volume = await this.volumeAt(image);
    if (volume === undefined) throw new DiskError('NO_VOLUME', `there is no volume ${image}`);
    await note(volume.uuid);
    return volume;
  }

  /**
   * The snapshot that has just been taken.
   * @param made what `noteOrigin` has noted
   * @throws {DiskError} If it is not there, or not one of the disk
   */
  protected async taken({ vdev, image, snapshot }: StorageDisk, made: string | undefined): Promise<Volume> {
    const there = await this.volumeAt(snapshot);
    if (there === undefined || !isKept(there)) {
      throw new DiskError(
        'NO_SNAPSHOT',
        `disk ${vdev}: LVM has no snapshot ${snapshot}, which it has just created`,
      );
    }
    if (there.originUuid !== made) {
      throw new DiskError(
        'OTHER_VOLUME',
        `disk ${vdev}: another volume has taken the name ${image}, and was snapshotted`,
        {
          hint: 'give the volume its name back with lvrename, then run the same command again',
        },
      );
    }
    return there;
  }

  /** Says what is wrong with the snapshot itself. */
  protected async snapshotProblems(disk: StorageDisk, identity: string | undefined): Promise<Problem[]> {
    const { vdev, snapshot } = disk;
    switch (await this.find(disk, identity)) {
      case 'gone':
        return [{ code: 'NO_SNAPSHOT', message: `disk ${vdev}: the volume ${snapshot} no longer exists` }];
      case 'other':
        return [
          {
            code: 'SNAPSHOT_REPLACED',
            message: `disk ${vdev}: ${snapshot} is not the volume that belongs to the memory: its lv_uuid is another`,
            hint: 'was the snapshot renamed? give it its name back with lvrename',
          },
        ];
      case 'there':
        return [];
    }
  }

  /** Waits until nobody has a volume open: blkback lets go of it some time after its domain has gone. */
  protected async release({ group, name }: VolumeName): Promise<void> {
    const deadline = performance.now() + this.#releaseMs;
    while ((await this.volumes.byName(group, name))?.open === true) {
      if (performance.now() > deadline) {
        throw new RecoverError('IMAGE_IN_USE', `a program has ${this.pathOf(group, name)} open`, {
          hint: 'find it, with fuser or in the output of mount and losetup, then run the same command again',
        });
      }
      await sleep(POLL_MS);
    }
  }

  async find({ snapshot }: StorageDisk, identity: string | undefined): Promise<'there' | 'gone' | 'other'> {
    const there = await this.volumeAt(snapshot);
    if (there === undefined) return 'gone';
    return isMeant(there, identity) ? 'there' : 'other';
  }

  async remove(disk: StorageDisk, identity: string | undefined): Promise<boolean> {
    const there = await this.volumeAt(disk.snapshot);
    if (there === undefined || !isMeant(there, identity)) return false;
    await this.volumes.remove(there);
    return true;
  }

  /** The volume in which a revert keeps the former content. */
  protected abstract formerOf(volume: VolumeName, mark: string): VolumeName;

  async former({ image }: StorageDisk, mark: string): Promise<string | undefined> {
    const { group, name } = this.formerOf(partsOf(image), mark);
    return (await this.volumes.byName(group, name)) === undefined ? undefined : this.pathOf(group, name);
  }

  async forget({ image }: StorageDisk, mark: string): Promise<boolean> {
    const { group, name } = this.formerOf(partsOf(image), mark);
    const there = await this.volumes.byName(group, name);
    if (there === undefined) return false;
    await this.volumes.remove(there);
    return true;
  }

  protected pathOf(group: string, name: string): string {
    return join(this.#devices, group, name);
  }

  protected async volumeAt(path: string): Promise<Volume | undefined> {
    const { group, name } = partsOf(path);
    return await this.volumes.byName(group, name);
  }
}

/** Splits the path of a volume, `…/GROUP/NAME`. */
export function partsOf(path: string): VolumeName {
  const [name = '', group = ''] = path.split('/').reverse();
  return { group, name };
}

/** `GROUP/NAME`, for a shell. */
export function quoteVolume({ group, name }: VolumeName): string {
  return shellQuote(`${group}/${name}`);
}

export function isKept({ tags }: Volume): boolean {
  return tags.includes(VOLUME_TAG);
}

/** The device mapper's name of a volume. */
function deviceName(group: string, name: string): string {
  return [group, name].map((part) => part.replaceAll('-', '--')).join('-');
}

/**
 * Maps a snapshot's name to LVM's alphabet, `[A-Za-z0-9+.-]`; the manifest has the name itself. Without `_`, since LVM reserves names
 * that contain `_mlog`, `_tdata` and others (lvm(8)).
 */
function inAlphabet(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9+.-]+/g, '.').slice(0, MAX_PART);
}

/** Tells whether a volume is the snapshot of that identity; without one, whether it is at least one of ours. */
function isMeant(volume: Volume, identity: string | undefined): boolean {
  return identity === undefined ? isKept(volume) : volume.uuid === identity;
}
