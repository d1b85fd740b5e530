/**
 * Snapshots of thin volumes of LVM: volumes of the same pool, which take no time and, at first, no space.
 *
 * A revert swaps names, each step one commit of the group's metadata: a fresh snapshot of the snapshot, D to D.before-MARK,
 * D.fresh-MARK to D. Which of the names exist says how far it got. The snapshot stays, so a revert can be repeated.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError, RecoverError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { Risk } from '../risks.ts';
import type { DiskPlace, DiskStorage, RevertSteps, WantedSnapshot } from './port.ts';
import { VOLUME_TAG, type Volume, type Volumes } from './volumes.ts';

/** A pool with less room than that is as good as full: its guests are about to fail, not only the snapshot; per cent. */
const FULL_PERCENT = 98;
/** A name of the device mapper has 127 bytes (DM_NAME_LEN); hyphens count twice. */
const MAX_DEVICE_NAME = 127;
/** Longest part that is taken from a snapshot's name. */
const MAX_PART = 40;
/** How long blkback may keep a volume open whose domain no longer exists, in milliseconds. */
const RELEASE_MS = 15_000;
const POLL_MS = 200;
/** Length of `.before-MARK`, whose hyphens count twice. */
const MARK_BYTES = 34;

export class ThinStorage implements DiskStorage {
  readonly name = 'lvm-thin';
  readonly noun = 'LVM thin snapshot';
  readonly #volumes: Volumes;
  readonly #devices: string;
  readonly #releaseMs: number;

  /**
   * @param options `devices`: directory of the groups' own directories, default `/dev`; `releaseMs`: how long to wait until nobody has
   * a volume open, milliseconds, default 15,000
   */
  constructor(
    volumes: Volumes,
    {
      devices = '/dev',
      releaseMs = RELEASE_MS,
    }: { readonly devices?: string; readonly releaseMs?: number } = {},
  ) {
    this.#volumes = volumes;
    this.#devices = devices;
    this.#releaseMs = releaseMs;
  }

  async examine(vdev: string, place: DiskPlace): Promise<readonly Problem[] | undefined> {
    if (place.kind !== 'device') return undefined;
    const volume = await this.#volumes.at(place);
    if (volume?.kind !== 'thin') return undefined;
    return await this.#obstacles(vdev, volume);
  }

  async #obstacles(vdev: string, { group, name, pool, merging }: Volume): Promise<readonly Problem[]> {
    const problems: Problem[] = [];
    const problem = (code: string, message: string, hint: string): void => {
      problems.push({ code, message: `disk ${vdev}: ${message}`, hint });
    };
    const reason = await this.#volumes.obstacle();
    if (reason !== undefined)
      problem('LVM_CANNOT', `LVM cannot create volumes: ${reason}`, 'repair that first');
    if (merging) {
      problem('LVM_MERGING', `a snapshot is being merged into ${group}/${name}`, 'wait until lvs shows none');
    }
    const state = pool === undefined ? undefined : await this.#volumes.pool(group, pool);
    if (state === undefined) {
      problem('LVM_POOL', `its thin pool in ${group} cannot be found`, 'look at lvs -a');
    } else if (
      state.health !== '' ||
      state.dataPercent >= FULL_PERCENT ||
      state.metadataPercent >= FULL_PERCENT
    ) {
      const how = `${state.dataPercent} % of its data and ${state.metadataPercent} % of its metadata are in use`;
      problem(
        'LVM_POOL_FULL',
        `the thin pool ${group}/${pool} is full or failing: ${how}${state.health === '' ? '' : ` (${state.health})`}`,
        `enlarge it with lvextend, or remove volumes that are not needed`,
      );
    }
    return problems;
  }

  async plan(place: DiskPlace, { vdev, name, path }: WantedSnapshot) {
    const volume = place.kind === 'device' ? await this.#volumes.at(place) : undefined;
    if (volume === undefined) throw new DiskError('NO_VOLUME', `disk ${vdev}: ${place.path} is no volume`);
    const { group } = volume;
    const snapshot = `${volume.name}.${inAlphabet(name)}-${randomBytes(3).toString('hex')}`;
    const image = this.#pathOf(group, volume.name);
    const problems: Problem[] = [];
    if (path !== undefined) {
      problems.push({
        code: 'NOT_A_RAW_FILE',
        message: `disk ${vdev}: ${image} is a volume of LVM, which cannot be cloned to a file`,
        hint: `write ',,${vdev}' for a snapshot in its volume group`,
      });
    }
    if (
      deviceName(group, volume.name).length + MARK_BYTES > MAX_DEVICE_NAME ||
      deviceName(group, snapshot).length > MAX_DEVICE_NAME
    ) {
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
      snapshot: this.#pathOf(group, snapshot),
    };
    return { disk, problems };
  }

  async prepare({ image }: StorageDisk): Promise<undefined> {
    await this.#volumes.flush(partsOf(image));
  }

  async take({ image, snapshot }: StorageDisk): Promise<void> {
    const { group, name } = partsOf(image);
    await this.#volumes.snapshotThin(group, name, partsOf(snapshot).name, { keep: true });
  }

  async finish({ vdev, snapshot }: StorageDisk) {
    const there = await this.#find(snapshot);
    if (there === undefined || !isKept(there)) {
      throw new DiskError(
        'NO_SNAPSHOT',
        `disk ${vdev}: LVM has no snapshot ${snapshot}, which it has just created`,
      );
    }
    return { identity: there.uuid, virtualSize: there.size };
  }

  /** The name has random digits, so a volume that has it and our tag is ours. */
  async undo({ snapshot }: StorageDisk): Promise<boolean> {
    const there = await this.#find(snapshot);
    if (there === undefined || !isKept(there)) return false;
    await this.#volumes.remove(there.group, there.name);
    return true;
  }

  async check(
    disk: StorageDisk,
    then: { readonly identity: string } | undefined,
  ): Promise<{ readonly problems: readonly Problem[]; readonly risks: readonly Risk[] }> {
    const { vdev, image, snapshot } = disk;
    const problems: Problem[] = [];
    const found = await this.find(disk, then?.identity);
    if (found === 'gone') {
      problems.push({
        code: 'NO_SNAPSHOT',
        message: `disk ${vdev}: the volume ${snapshot} no longer exists`,
      });
    } else if (found === 'other') {
      problems.push({
        code: 'SNAPSHOT_REPLACED',
        message: `disk ${vdev}: ${snapshot} is not the volume that belongs to the memory: its lv_uuid is another`,
        hint: 'was the snapshot renamed? give it its name back with lvrename',
      });
    }
    const volume = await this.#find(image);
    if (volume === undefined) {
      problems.push({
        code: 'NO_IMAGE',
        message: `disk ${vdev}: the volume ${image} no longer exists`,
        hint: `was it renamed? else, once, lvcreate -kn -s -n ${shellQuote(partsOf(image).name)} ${shellQuote(`${partsOf(snapshot).group}/${partsOf(snapshot).name}`)}`,
      });
    } else if (volume.kind !== 'thin') {
      problems.push({
        code: 'NOT_THIN',
        message: `disk ${vdev}: ${image} is no thin volume any more (${volume.layout})`,
      });
    } else problems.push(...(await this.#obstacles(vdev, volume)));
    return { problems, risks: [] };
  }

  async revert(
    { image, snapshot }: StorageDisk,
    { mark, checkFree }: RevertSteps,
    note: (made: string) => Promise<void>,
  ): Promise<void> {
    const { group, name } = partsOf(image);
    const { before, fresh } = namesOf(name, mark);
    await this.#volumes.snapshotThin(group, partsOf(snapshot).name, fresh, { keep: false });
    const made = await this.#volumes.byName(group, fresh);
    if (made === undefined)
      throw new DiskError('LVM', `${group}/${fresh} has just been created, and is not there`);
    await note(made.uuid);
    await checkFree();
    await this.#release(group, name);
    // An active volume can be renamed too, and then its users' configuration names nothing.
    await this.#volumes.deactivate(group, name);
    await checkFree();
    await this.#volumes.rename(group, name, before);
    await checkFree();
    await this.#volumes.rename(group, fresh, name);
    await this.#volumes.activate(group, name);
  }

  /** Waits until nobody has a volume open: blkback lets go of it some time after its domain has gone. */
  async #release(group: string, name: string): Promise<void> {
    const deadline = performance.now() + this.#releaseMs;
    while ((await this.#volumes.byName(group, name))?.open === true) {
      if (performance.now() > deadline) {
        throw new RecoverError('IMAGE_IN_USE', `a program has ${this.#pathOf(group, name)} open`, {
          hint: `find it, with fuser or in the output of mount and losetup, then run the same command again`,
        });
      }
      await sleep(POLL_MS);
    }
  }

  async undoRevert(
    { image }: StorageDisk,
    { mark, checkFree }: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean> {
    const { group, name } = partsOf(image);
    const { before, fresh } = namesOf(name, mark);
    const there = await this.#volumes.byName(group, name);
    const former = await this.#volumes.byName(group, before);
    if (former !== undefined && there !== undefined && there.uuid !== made) {
      throw new RecoverError('FILE_EXISTS', `${image} is not the volume that the revert created`);
    }
    let done = false;
    if (former !== undefined) {
      await checkFree();
      await beforeChange();
      if (there !== undefined) {
        await this.#release(group, name);
        await this.#volumes.remove(group, name);
      }
      await this.#volumes.rename(group, before, name);
      done = true;
    }
    // It may be that nothing was done but this.
    const now = await this.#volumes.byName(group, name);
    if (now !== undefined && !now.active && (done || made !== undefined)) {
      await this.#volumes.activate(group, name);
      done = true;
    }
    if ((await this.#volumes.byName(group, fresh)) !== undefined) {
      await this.#volumes.remove(group, fresh);
      done = true;
    }
    return done;
  }

  async former({ image }: StorageDisk, mark: string): Promise<string | undefined> {
    const { group, name } = partsOf(image);
    const { before } = namesOf(name, mark);
    return (await this.#volumes.byName(group, before)) === undefined
      ? undefined
      : this.#pathOf(group, before);
  }

  async forget({ image }: StorageDisk, mark: string): Promise<boolean> {
    const { group, name } = partsOf(image);
    const { before } = namesOf(name, mark);
    if ((await this.#volumes.byName(group, before)) === undefined) return false;
    await this.#volumes.remove(group, before);
    return true;
  }

  async find({ snapshot }: StorageDisk, identity: string | undefined): Promise<'there' | 'gone' | 'other'> {
    const there = await this.#find(snapshot);
    if (there === undefined) return 'gone';
    return identity === undefined || there.uuid === identity ? 'there' : 'other';
  }

  async remove(disk: StorageDisk, identity: string | undefined): Promise<boolean> {
    if ((await this.find(disk, identity)) !== 'there') return false;
    const { group, name } = partsOf(disk.snapshot);
    await this.#volumes.remove(group, name);
    return true;
  }

  byHand({ image, snapshot }: StorageDisk, what: Parameters<DiskStorage['byHand']>[1], mark: string): string {
    const { group, name } = partsOf(image);
    const { before, fresh } = namesOf(name, mark);
    const volume = (one: string): string => shellQuote(`${group}/${one}`);
    switch (what) {
      case 'undo':
      case 'remove':
        return `lvremove ${volume(partsOf(snapshot).name)}`;
      case 'undo-revert':
        return `lvremove ${volume(fresh)}; if ${volume(before)} exists, lvremove ${volume(name)}; lvrename ${volume(before)} ${volume(name)}; lvchange -ay ${volume(name)}`;
      case 'forget':
        return `lvremove ${volume(before)}`;
    }
  }

  #pathOf(group: string, name: string): string {
    return join(this.#devices, group, name);
  }

  async #find(path: string): Promise<Volume | undefined> {
    const { group, name } = partsOf(path);
    return await this.#volumes.byName(group, name);
  }
}

function namesOf(name: string, mark: string): { readonly before: string; readonly fresh: string } {
  return { before: `${name}.before-${mark}`, fresh: `${name}.fresh-${mark}` };
}

/** Splits the path of a volume, `…/GROUP/NAME`. */
function partsOf(path: string): { readonly group: string; readonly name: string } {
  const [name = '', group = ''] = path.split('/').reverse();
  return { group, name };
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

function isKept({ tags }: Volume): boolean {
  return tags.includes(VOLUME_TAG);
}
