/** Deletes the tags of internal snapshots. */
import { DiskError, EnvironmentError } from '../../core/errors.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { SnapshotDisk } from '../../memfile/manifest.ts';
import { howToRelease, inUseError, isSameImage } from '../images/chain.ts';
import { freeImages } from '../images/free.ts';
import { isBaseLost, isSameTag } from '../images/identity.ts';
import { waitForWorker } from '../images/worker.ts';
import type { Host, ImageTag } from '../ports.ts';
import type { DeleteAction } from './action.ts';
import type { DoomedTag } from './journal.ts';
import { disksOn, identityOf, type Subject } from './subject.ts';
import type { DeleteDisk } from './types.ts';
import { ownDomain, usersOf } from './users.ts';

/** Looks at a tag: it goes, unless another snapshot or a program needs it. */
export async function examineTag(
  { host, manifest, others, keys, merged, problems, doomed: { tags } }: Subject,
  disk: Extract<SnapshotDisk, { kind: 'internal' }>,
): Promise<DeleteDisk> {
  const { vdev, image, tag } = disk;
  const keep = (reason: string): DeleteDisk => ({ ...disk, action: 'keep', reason });
  const identity = identityOf(manifest, vdev);
  const doomed: DoomedTag = omitUndefined({ ...disk, identity });
  const info = await host.images.info(image, 'qcow2');
  if (info === undefined) return keep(`the image ${image} no longer exists`);
  if (!info.tags.includes(tag)) return keep(`${image} has no such tag any more`);
  const there = findTag(info.snapshots, doomed);
  if (there === undefined) return keep(`the tag in ${image} is a later one of the same name`);
  for (const other of await disksOn(others, image, 'internal')) {
    if (other.disk.kind !== 'internal' || other.disk.tag !== tag) continue;
    const its = identityOf(other.manifest, other.disk.vdev);
    if (its !== undefined && !isSameTag(its, there)) continue;
    if (identity === undefined && its !== undefined) {
      return keep(`the tag in ${image} belongs to snapshot "${other.manifest.name}" (${other.memoryPath})`);
    }
    problems.push({
      code: 'SNAPSHOT_NEEDED',
      message: `disk ${vdev}: the tag "${tag}" of ${image} also belongs to the snapshot ${other.memoryPath}`,
      hint: 'is one a copy of the other? remove the files of the copy by hand',
    });
  }
  const { user, own } = await usersOf(host, image, keys, merged);
  if (user !== undefined && own === undefined) {
    problems.push({
      code: 'IMAGE_IN_USE',
      message: `disk ${vdev}: ${user.holder} uses ${user.path}${user.path === image ? '' : `, which depends on ${image}`}: its tag cannot be deleted`,
      // QEMU deletes tags of the image on top only. With the domain down, the base of a snapshot is refused, too.
      hint:
        user.path !== image && (await ownDomain(host, user, keys)) !== undefined
          ? `delete the external snapshots above it too, with --merge; for those deleted already, run xlsnap snapshot-delete ${shellQuote(manifest.domain)} --merge first`
          : `${howToRelease(user)} first`,
    });
  }
  if (user === undefined) {
    // Deleting a tag writes to the image, and then a revert could not tell that nothing else was written.
    for (const other of await disksOn(others, image, 'external')) {
      if (other.disk.kind !== 'external' || (await isBaseLost(other.manifest, other.disk))) continue;
      problems.push({
        code: 'SNAPSHOT_NEEDED',
        message: `disk ${vdev}: ${image}, which would be written to, is the base of snapshot "${other.manifest.name}" (${other.memoryPath})`,
        hint: 'delete that one too, with --merge',
      });
    }
  }
  tags.push(doomed);
  return { ...disk, action: 'delete' };
}

export function tagAction(host: Host, tag: DoomedTag, keys: readonly string[]): DeleteAction {
  return {
    what: `deleted tag "${tag.tag}" of ${tag.image}`,
    byHand: `with the domain down, qemu-img snapshot -d ${shellQuote(tag.tag)} ${shellQuote(tag.image)}`,
    run: () => deleteTag(host, tag, keys),
  };
}

export async function isTagThere({ images }: Host, tag: DoomedTag): Promise<boolean> {
  const info = await images.info(tag.image, 'qcow2');
  return findTag(info?.snapshots ?? [], tag) !== undefined;
}

/** The tag in an image, unless it is another one of that name. */
function findTag(snapshots: readonly ImageTag[], { tag, identity }: DoomedTag): ImageTag | undefined {
  return snapshots.find((one) => one.name === tag && (identity === undefined || isSameTag(identity, one)));
}

/** Deletes a tag: by the QEMU of the domain that has the image open, or by qemu-img if no program has. */
async function deleteTag(host: Host, doomed: DoomedTag, keys: readonly string[]): Promise<boolean> {
  const { image, vdev, tag } = doomed;
  // One that a killed xlsnap has started may be deleting this tag.
  await waitForWorker(host, image);
  const info = await host.images.info(image, 'qcow2');
  if (findTag(info?.snapshots ?? [], doomed) === undefined) return false;
  const { user, own } = await usersOf(host, image, keys);
  if (user === undefined) {
    await freeImages(host).deleteTag(image, tag);
    return true;
  }
  if (own === undefined) throw inUseError(user);
  await using deviceModel = await host.toolstack.openDeviceModel(own.domid, {});
  if (deviceModel === undefined) {
    throw new EnvironmentError('NO_DEVICE_MODEL', 'its QEMU cannot be reached', { domid: own.domid });
  }
  const used = deviceModel.imageOf(vdev);
  if (used === undefined || !(await isSameImage(used, image))) {
    throw new DiskError('OTHER_IMAGE', `${image} is no longer disk ${vdev} of domain ${own.name}`, {
      domid: own.domid,
      hint: 'shut the domain down, then run the same command again',
    });
  }
  return (await deviceModel.undoSnapshots([{ kind: 'internal', vdev, tag }])).length > 0;
}
