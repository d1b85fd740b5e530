/** The steps of a delete. Each does what is left of it, and may be done again, late, or after it was done by hand. */
import { rm, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DiskError, EnvironmentError, errnoCode } from '../../core/errors.ts';
import { exists, syncDirectory } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { inUseError, isSameImage, refuseUsed } from '../images/chain.ts';
import { freeImages } from '../images/free.ts';
import { isSameTag } from '../images/identity.ts';
import { waitForWorker } from '../images/worker.ts';
import { snapshotDirOf } from '../naming.ts';
import type { Host, ImageTag } from '../ports.ts';
import { storageOf } from '../storage/find.ts';
import type { DeleteHead, DeleteStep, DoomedFile, DoomedSnapshot, DoomedTag } from './journal.ts';
import { type DeleteRun, mergeAway } from './merge.ts';
import { usersOf } from './users.ts';

/** One step, with what it has done if it did something. */
export interface DeleteAction {
  /** Past participle, for a report. */
  readonly what: string;
  readonly byHand: string;
  /** @returns whether there was anything to do */
  readonly run: () => Promise<boolean>;
}

/** All steps in their order: the disks, the cfgfile, the memory file, the manifest. */
export function deleteActions(
  host: Host,
  { keys, tags, overlays, snapshots, files }: DeleteHead,
  run: DeleteRun,
): readonly DeleteAction[] {
  return [
    ...tags.map((tag) => ({
      what: `deleted tag "${tag.tag}" of ${tag.image}`,
      byHand: `with the domain down, qemu-img snapshot -d ${shellQuote(tag.tag)} ${shellQuote(tag.image)}`,
      run: () => deleteTag(host, tag, keys),
    })),
    ...overlays.map((disk) => ({
      what: `merged ${disk.overlay} into ${disk.base}`,
      byHand: `with the domain down, qemu-img commit ${shellQuote(disk.overlay)}, then rm ${shellQuote(disk.overlay)}`,
      run: () => mergeAway(host, disk, run),
    })),
    ...snapshots.map((disk) => ({
      what: `deleted ${disk.snapshot}`,
      byHand: storageOf(host, disk).byHand(disk, 'remove', ''),
      run: () => deleteSnapshot(host, disk),
    })),
    ...files.map((file) => ({
      what: `removed ${file.path}`,
      byHand: `rm ${shellQuote(file.path)}`,
      run: () => removeFile(file),
    })),
  ];
}

/** Tells whether all is there that a delete is to take away. */
export async function isUntouched(
  host: Host,
  { tags, snapshots, files }: DeleteHead,
  steps: readonly DeleteStep[],
): Promise<boolean> {
  // A merge writes to the base, which the memory needs as it was.
  if (steps.length > 0) return false;
  for (const file of files) if (!(await isFile(file))) return false;
  for (const tag of tags) {
    const info = await host.images.info(tag.image, 'qcow2');
    if (findTag(info?.snapshots ?? [], tag) === undefined) return false;
  }
  for (const disk of snapshots) {
    if ((await storageOf(host, disk).find(disk, disk.identity)) !== 'there') return false;
  }
  return true;
}

/** The tag in an image, unless it is another one of that name. */
export function findTag(snapshots: readonly ImageTag[], { tag, identity }: DoomedTag): ImageTag | undefined {
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

/** Deletes a storage's snapshot, unless a program has it open. */
async function deleteSnapshot(host: Host, disk: DoomedSnapshot): Promise<boolean> {
  const storage = storageOf(host, disk);
  if ((await storage.find(disk, disk.identity)) !== 'there') return false;
  await refuseUsed(host, disk.snapshot);
  return await storage.remove(disk, disk.identity);
}

async function isFile({ path, inode }: DoomedFile): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.ino === inode;
}

async function removeFile(file: DoomedFile): Promise<boolean> {
  if (!(await isFile(file))) return false;
  await rm(file.path, { force: true });
  return true;
}

/** Makes the removal of files durable, before the journal goes. */
export async function syncRemoval({ memoryPath, overlays }: DeleteHead): Promise<void> {
  const paths = [memoryPath, ...overlays.map(({ overlay }) => overlay)];
  for (const directory of new Set(paths.map((path) => dirname(path)))) {
    if (await exists(directory)) await syncDirectory(directory);
  }
}

/** Removes the directory that a create makes for a domain, if there is nothing in it. */
export async function removeEmpty(host: Host, { memoryPath }: Pick<DeleteHead, 'memoryPath'>): Promise<void> {
  const directory = dirname(memoryPath);
  if (dirname(directory) !== snapshotDirOf(host)) return;
  try {
    await rmdir(directory);
  } catch (error) {
    // It makes no difference to anyone.
    if (errnoCode(error) === undefined) throw error;
  }
}
