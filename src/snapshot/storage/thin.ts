/**
 * Snapshots of thin volumes of LVM: volumes of the same pool, which take no time and, at first, no space.
 *
 * A revert swaps names, each step one commit of the group's metadata: a fresh snapshot of the snapshot, D to D.before-MARK,
 * D.fresh-MARK to D. Which of the names exist says how far it got. The snapshot stays, so a revert can be repeated.
 */
import { DiskError, RecoverError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { Risk } from '../risks.ts';
import { storeProblems } from './find.ts';
import { Look } from './look.ts';
import type {
  DiskPlace,
  DiskStorage,
  PlannedSnapshot,
  PrepareSteps,
  RevertSteps,
  WantedSnapshot,
} from './port.ts';
import { partsOf, quoteVolume, type VolumeName, VolumeStorage } from './volume-storage.ts';
import type { Volume } from './volumes.ts';

/** A pool with less room than that is as good as full: its guests are about to fail, not only the snapshot; per cent. */
const FULL_PERCENT = 98;

export class ThinStorage extends VolumeStorage implements DiskStorage {
  readonly name = 'lvm-thin';
  readonly noun = 'LVM thin snapshot';

  async examine(vdev: string, place: DiskPlace, look: Look): Promise<readonly Problem[] | undefined> {
    const volume = await this.volumeOf(place, look);
    return volume?.kind === 'thin' ? await this.#obstacles(vdev, volume, look) : undefined;
  }

  async #obstacles(vdev: string, volume: Volume, look: Look): Promise<readonly Problem[]> {
    const { group, pool } = volume;
    const problems = await this.commonObstacles(vdev, volume);
    const state = (await this.listed(look)).pools.get(`${group}/${pool}`);
    if (state === undefined) {
      const message = `disk ${vdev}: its thin pool in ${group} cannot be found`;
      problems.push({ code: 'LVM_POOL', message, hint: 'look at lvs -a' });
    } else if (
      state.health !== '' ||
      state.dataPercent >= FULL_PERCENT ||
      state.metadataPercent >= FULL_PERCENT
    ) {
      const how = `${state.dataPercent} % of its data and ${state.metadataPercent} % of its metadata are in use`;
      const why = state.health === '' ? '' : ` (${state.health})`;
      problems.push({
        code: 'LVM_POOL_FULL',
        message: `disk ${vdev}: the thin pool ${group}/${pool} is full or failing: ${how}${why}`,
        hint: 'enlarge it with lvextend, or remove volumes that are not needed',
      });
    }
    return problems;
  }

  async plan(place: DiskPlace, wanted: WantedSnapshot, look: Look): Promise<PlannedSnapshot> {
    const { disk, problems } = await this.planVolume(place, wanted, look);
    return { disk, problems: [...storeProblems(wanted.vdev, wanted.cow), ...problems] };
  }

  async prepare(disk: StorageDisk, steps: PrepareSteps): Promise<void> {
    await this.noteOrigin(disk, steps);
  }

  async take({ image, snapshot }: StorageDisk): Promise<void> {
    const { group, name } = partsOf(image);
    await this.volumes.snapshotThin(group, name, partsOf(snapshot).name, { keep: true });
  }

  async finish(disk: StorageDisk, made: string | undefined) {
    const { uuid, size } = await this.taken(disk, made);
    return { identity: uuid, virtualSize: size };
  }

  async check(
    disk: StorageDisk,
    then: { readonly identity: string } | undefined,
  ): Promise<{ readonly problems: readonly Problem[]; readonly risks: readonly Risk[] }> {
    const { vdev, image, snapshot } = disk;
    const problems = await this.snapshotProblems(disk, then?.identity);
    const volume = await this.volumeAt(image);
    if (volume === undefined) {
      const { name } = partsOf(image);
      problems.push({
        code: 'NO_IMAGE',
        message: `disk ${vdev}: the volume ${image} no longer exists`,
        hint: `was it renamed? else, once, lvcreate -kn -s -n ${name} ${quoteVolume(partsOf(snapshot))}`,
      });
    } else if (volume.kind !== 'thin') {
      problems.push({
        code: 'NOT_THIN',
        message: `disk ${vdev}: ${image} is no thin volume any more (${volume.layout})`,
      });
    } else problems.push(...(await this.#obstacles(vdev, volume, new Look())));
    return { problems, risks: [] };
  }

  async revert(
    { image, snapshot }: StorageDisk,
    { mark, checkFree }: RevertSteps,
    note: (made: string) => Promise<void>,
  ): Promise<void> {
    const volume = partsOf(image);
    const { group, name } = volume;
    const { before, fresh } = namesOf(volume, mark);
    await this.volumes.snapshotThin(group, partsOf(snapshot).name, fresh.name, { keep: false });
    const made = await this.volumes.byName(group, fresh.name);
    if (made === undefined) {
      throw new DiskError('LVM', `${group}/${fresh.name} has just been created, and is not there`);
    }
    await note(made.uuid);
    await checkFree();
    await this.release(volume);
    // An active volume can be renamed too, and then its users' configuration names nothing.
    await this.volumes.deactivate(group, name);
    await checkFree();
    await this.volumes.rename(group, name, before.name);
    await checkFree();
    await this.volumes.rename(group, fresh.name, name);
    await this.volumes.activate(group, name);
  }

  async undoRevert(
    { image }: StorageDisk,
    { mark, checkFree }: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean> {
    const volume = partsOf(image);
    const { group, name } = volume;
    const { before, fresh } = namesOf(volume, mark);
    const there = await this.volumes.byName(group, name);
    const former = await this.volumes.byName(group, before.name);
    if (former !== undefined && there !== undefined && there.uuid !== made) {
      throw new RecoverError('FILE_EXISTS', `${image} is not the volume that the revert created`);
    }
    let done = false;
    if (former !== undefined) {
      await checkFree();
      await beforeChange();
      if (there !== undefined) {
        await this.release(volume);
        await this.volumes.remove(there);
      }
      await this.volumes.rename(group, before.name, name);
      done = true;
    }
    // It may be that nothing was done but to deactivate it.
    const now = await this.volumes.byName(group, name);
    if (now !== undefined && !now.active && (done || made !== undefined)) {
      await this.volumes.activate(group, name);
      done = true;
    }
    const left = await this.volumes.byName(group, fresh.name);
    if (left !== undefined) {
      await this.volumes.remove(left);
      done = true;
    }
    return done;
  }

  protected formerOf(volume: VolumeName, mark: string): VolumeName {
    return namesOf(volume, mark).before;
  }

  byHand({ image, snapshot }: StorageDisk, what: Parameters<DiskStorage['byHand']>[1], mark: string): string {
    const volume = partsOf(image);
    const { before, fresh } = namesOf(volume, mark);
    const [own, former] = [quoteVolume(volume), quoteVolume(before)];
    switch (what) {
      case 'undo':
      case 'remove':
        return `lvremove ${quoteVolume(partsOf(snapshot))}`;
      case 'undo-revert':
        return `lvremove ${quoteVolume(fresh)}; if ${former} exists, lvremove ${own}; lvrename ${former} ${own}; lvchange -ay ${own}`;
      case 'forget':
        return `lvremove ${former}`;
    }
  }
}

function namesOf(
  { group, name }: VolumeName,
  mark: string,
): { readonly before: VolumeName; readonly fresh: VolumeName } {
  return {
    before: { group, name: `${name}.before-${mark}` },
    fresh: { group, name: `${name}.fresh-${mark}` },
  };
}
