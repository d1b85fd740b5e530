/**
 * Whether a disk is still the one that belongs to a memory file. What identifies its content is in the manifest: for a tag,
 * what distinguishes it from another one of the same name; for a base, when it was last written to.
 */

import { stat } from 'node:fs/promises';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type {
  DiskIdentity,
  ExternalDisk,
  FileIdentity,
  Manifest,
  QemuDisk,
  TagIdentity,
} from '../../memfile/manifest.ts';
import type { Host, ImageHost, ImageInfo } from '../ports.ts';
import type { Risk } from '../risks.ts';

/**
 * Looks at a disk of a snapshot that has just been taken. The domain may run: it writes to the overlay, and a tag does not
 * change.
 * @returns `undefined` when its image or tag is not there
 * @throws {DiskError} If the image cannot be read
 */
export async function identifyDisk(host: Host, disk: QemuDisk): Promise<DiskIdentity | undefined> {
  const info = await infoOf(host, disk);
  return info === undefined ? undefined : await identityOf(disk, info);
}

/**
 * The image that has a disk's tag, or is its base.
 * @throws {DiskError} If the image cannot be read
 */
export async function infoOf({ images }: ImageHost, disk: QemuDisk): Promise<ImageInfo | undefined> {
  return disk.kind === 'internal'
    ? await images.info(disk.image, 'qcow2')
    : await images.info(disk.base, disk.baseFormat);
}

async function identityOf(disk: QemuDisk, info: ImageInfo): Promise<DiskIdentity | undefined> {
  const { vdev } = disk;
  const { virtualSize } = info;
  if (disk.kind === 'external') {
    const base = await identifyFile(disk.base);
    return omitUndefined({ vdev, virtualSize, base });
  }
  const tag = info.snapshots.find(({ name }) => name === disk.tag);
  if (tag === undefined) return undefined;
  const { id, dateSec, dateNsec, vmClockNsec } = tag;
  return { vdev, virtualSize, tag: { id, dateSec, dateNsec, vmClockNsec } };
}

/** @returns `undefined` for what is not a regular file */
export async function identifyFile(path: string): Promise<FileIdentity | undefined> {
  const found = await stat(path);
  return found.isFile() ? { bytes: found.size, mtimeMs: found.mtimeMs } : undefined;
}

/** Tells whether the base of a snapshot's disk has already been replaced or written to: nothing more can be spoilt. */
export async function isBaseLost(
  { identities = [] }: Pick<Manifest, 'identities'>,
  { vdev, base }: Pick<ExternalDisk, 'vdev' | 'base'>,
): Promise<boolean> {
  const then = identities.find((identity) => identity.vdev === vdev)?.base;
  const now = await identifyFile(base).catch(() => undefined);
  return then !== undefined && now !== undefined && !isSameFile(then, now);
}

/**
 * Finds what shows that a disk no longer has the content that it had at the snapshot.
 * @param info of the image that has the tag, or is the base
 */
export async function findChanged(
  disk: QemuDisk,
  info: ImageInfo,
  then: DiskIdentity,
): Promise<readonly Risk[]> {
  const now = await identityOf(disk, info);
  if (now === undefined) return [];
  const { vdev } = disk;
  const risks: Risk[] = [];
  if (now.virtualSize !== then.virtualSize) {
    risks.push({
      risk: 'disk-resized',
      message: `disk ${vdev}: ${info.path} now has ${now.virtualSize} bytes; at the snapshot the guest saw ${then.virtualSize}`,
      vdev,
    });
  }
  if (disk.kind === 'internal' && then.tag !== undefined && !isSameTag(then.tag, now.tag)) {
    risks.push({
      risk: 'tag-replaced',
      message: `disk ${vdev}: the snapshot "${disk.tag}" in ${info.path} was taken at ${takenAt(now.tag)}; the memory belongs to one of that name that was taken at ${takenAt(then.tag)}`,
      vdev,
    });
  }
  if (then.base !== undefined && now.base !== undefined && !isSameFile(then.base, now.base)) {
    risks.push({
      risk: 'base-written',
      message: `disk ${vdev}: ${info.path} was written to at ${new Date(now.base.mtimeMs).toISOString()}; before the snapshot, it was at ${new Date(then.base.mtimeMs).toISOString()}`,
      vdev,
    });
  }
  return risks;
}

/** Whether a tag is the one that was taken then, and not another one of its name. */
export function isSameTag(then: TagIdentity, now: TagIdentity | undefined): boolean {
  return (
    now !== undefined &&
    now.id === then.id &&
    now.dateSec === then.dateSec &&
    now.dateNsec === then.dateNsec &&
    now.vmClockNsec === then.vmClockNsec
  );
}

/** Whether nothing was written to a file. A copy of it that has its time is as good. */
export function isSameFile(then: FileIdentity, now: FileIdentity): boolean {
  return now.bytes === then.bytes && now.mtimeMs === then.mtimeMs;
}

function takenAt(tag: TagIdentity | undefined): string {
  return tag === undefined ? 'an unknown time' : new Date(tag.dateSec * 1000).toISOString();
}
