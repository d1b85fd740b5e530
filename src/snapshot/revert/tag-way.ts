/**
 * Puts a disk back to an internal snapshot, by qemu-img: a safety tag holds what the image was before. That tag shows how far it
 * got: without it nothing was done, or all has been put back, perhaps by hand.
 */
import type { Domid } from '../../core/brand.ts';
import { DiskError, EnvironmentError } from '../../core/errors.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { RevertDisk } from '../api.ts';
import { isSameImage, userOf } from '../images/chain.ts';
import { freeImages } from '../images/free.ts';
import { waitForWorker } from '../images/worker.ts';
import type { Host } from '../ports.ts';
import type { RevertSteps } from '../storage/port.ts';
import { safetyTag } from './names.ts';
import type { FormerDisk, Way } from './ways.ts';

export class TagWay implements Way {
  readonly disk: Extract<RevertDisk, { kind: 'internal' }>;
  readonly image: string;
  readonly #host: Host;

  constructor(host: Host, disk: Extract<RevertDisk, { kind: 'internal' }>) {
    this.#host = host;
    this.disk = disk;
    this.image = disk.image;
  }

  async revert({ mark, checkFree }: RevertSteps, note: (made: string) => Promise<void>): Promise<void> {
    const { images } = this.#host;
    const safety = safetyTag(mark);
    await checkFree();
    await images.createTag(this.image, safety);
    await note(safety);
    await checkFree();
    await images.applyTag(this.image, this.disk.tag);
  }

  async undoRevert(
    { mark, checkFree }: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean> {
    const { images } = this.#host;
    const safety = safetyTag(mark);
    await waitForWorker(this.#host, this.image);
    const info = await images.info(this.image, 'qcow2');
    if (info === undefined && made !== undefined) {
      throw new DiskError('NO_IMAGE', `its image ${this.image} no longer exists`);
    }
    if (info?.tags.includes(safety) !== true) return false;
    // Before anything is noted.
    await checkFree();
    // Until that is noted nothing else was applied.
    if (made !== undefined) {
      await beforeChange();
      await checkFree();
      await images.applyTag(this.image, safety);
    }
    await checkFree();
    await images.deleteTag(this.image, safety);
    return true;
  }

  async former(mark: string): Promise<FormerDisk | undefined> {
    const { vdev } = this.disk;
    const tag = safetyTag(mark);
    if (!(await this.#has(tag))) return undefined;
    return {
      kept: { kind: 'tag', vdev, image: this.image, tag },
      where: `snapshot ${tag} of ${this.image}`,
      removed: `removed the safety tag of disk ${vdev}`,
      // It would be one of the domain's snapshots.
      mayStay: false,
    };
  }

  async forget(mark: string, domid: Domid | undefined): Promise<boolean> {
    const tag = safetyTag(mark);
    await waitForWorker(this.#host, this.image);
    if (!(await this.#has(tag))) return false;
    return await this.#deleteTag(tag, domid);
  }

  /** Deletes a tag: by the domain's QEMU if that has the image open, else by qemu-img. */
  async #deleteTag(tag: string, domid: Domid | undefined): Promise<boolean> {
    const host = this.#host;
    const user = await userOf(host, this.image);
    const own = user !== undefined && (await isSameImage(user.path, this.image));
    if (own && domid !== undefined && user.domid === domid) {
      await using deviceModel = await host.toolstack.openDeviceModel(domid, {});
      if (deviceModel === undefined) {
        throw new EnvironmentError('NO_DEVICE_MODEL', 'its QEMU cannot be reached');
      }
      const { vdev } = this.disk;
      // QEMU knows better than the file whether it is there.
      return (await deviceModel.undoSnapshots([{ kind: 'internal', vdev, tag }])).length > 0;
    }
    await freeImages(host).deleteTag(this.image, tag);
    return true;
  }

  async #has(tag: string): Promise<boolean> {
    return (await this.#host.images.info(this.image, 'qcow2'))?.tags.includes(tag) === true;
  }

  byHand(what: 'undo-revert' | 'forget', mark: string): string {
    const tag = safetyTag(mark);
    const image = shellQuote(this.image);
    switch (what) {
      case 'undo-revert':
        return `qemu-img snapshot -a ${tag} ${image} && qemu-img snapshot -d ${tag} ${image}`;
      case 'forget':
        return `qemu-img snapshot -d ${tag} ${image}`;
    }
  }
}
