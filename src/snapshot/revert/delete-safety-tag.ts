/** Deletes the tag that holds a disk as it was before a revert. */
import type { Domid } from '../../core/brand.ts';
import { EnvironmentError } from '../../core/errors.ts';
import { isSameImage, userOf } from '../images/chain.ts';
import { freeImages } from '../images/free.ts';
import type { Host } from '../ports.ts';
import type { KeptDisk } from './kept.ts';

/**
 * Deletes a safety tag: by the domain's QEMU if that has the image open, else by qemu-img.
 * @param domid of the restored domain; `undefined` when there is none
 * @returns whether it was there: QEMU knows better than the file
 * @throws {RecoverError} If another program has the image open (`IMAGE_IN_USE`)
 * @throws {EnvironmentError} If its QEMU cannot be reached
 * @throws {DiskError} If the tag cannot be deleted
 */
export async function deleteSafetyTag(
  host: Host,
  domid: Domid | undefined,
  { vdev, image, tag }: Omit<Extract<KeptDisk, { kind: 'tag' }>, 'kind'>,
): Promise<boolean> {
  const user = await userOf(host, image);
  const own = user !== undefined && (await isSameImage(user.path, image));
  if (own && domid !== undefined && user.domid === domid) {
    await using deviceModel = await host.toolstack.openDeviceModel(domid, {});
    if (deviceModel === undefined)
      throw new EnvironmentError('NO_DEVICE_MODEL', 'its QEMU cannot be reached');
    return (await deviceModel.undoSnapshots([{ kind: 'internal', vdev, tag }])).length > 0;
  }
  await freeImages(host).deleteTag(image, tag);
  return true;
}
