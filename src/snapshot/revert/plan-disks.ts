/** Plans what happens to each disk in a revert, with what prevents it and what makes it risky. */
import { isAbsolute } from 'node:path';
import { DiskError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import { configDisks, isVolume, type LibxlConfig, qemuFormat } from '../../memfile/libxl-config.ts';
import {
  type DiskIdentity,
  imageOf,
  type Manifest,
  type SnapshotDisk,
  type StorageDisk,
} from '../../memfile/manifest.ts';
import type { RevertDisk, RevertRequest } from '../api.ts';
import { isSameImage, standsOn, truePath } from '../images/chain.ts';
import type { ImageHost, ImageInfo } from '../ports.ts';
import type { Risk } from '../risks.ts';
import { storageOf } from '../storage/find.ts';

/** A disk that the cfgfile asks for, with what the manifest or the stored configuration says about it. */
export interface WantedDisk {
  readonly vdev: string;
  readonly kind: 'internal' | 'external' | 'storage';
  /** The image at the snapshot's instant; for an external one without a manifest `undefined`. */
  readonly image: string | undefined;
  /** In QEMU's words, as the manifest or the stored configuration states it. */
  readonly imageFormat: string;
  readonly tag: string;
  readonly overlay: string;
  /** The snapshot of a storage, with what identifies it; absent if there is no manifest that says so. */
  readonly stored?: StorageDisk | undefined;
  readonly identity?: DiskIdentity | undefined;
}

/** What was found about one disk. */
export interface PlannedDisk {
  /** Absent if something prevents the revert. */
  readonly disk?: RevertDisk;
  readonly problems: readonly Problem[];
  readonly risks: readonly Risk[];
}

/** A disk's image at the snapshot. */
interface SnapshotImage {
  readonly path: string;
  readonly format: string;
}

/** Lists the disks to revert: those of the cfgfile, or of the manifest, or all that the guest wrote to. */
export function wantedDisks(
  request: Pick<RevertRequest, 'config'>,
  name: string,
  config: LibxlConfig,
  manifest: Manifest | undefined,
): readonly WantedDisk[] {
  const stored = configDisks(config);
  if (request.config.disks === undefined && manifest !== undefined) {
    return manifest.disks.map((disk) => ofManifest(disk, manifest));
  }
  const asked =
    request.config.disks ??
    stored.filter(isVolume).map((disk) => ({ kind: 'internal', target: disk.vdev }) as const);
  return asked.map((disk) => {
    const known = manifest?.disks.find(({ vdev }) => vdev === disk.target);
    if (known?.kind === 'storage' && disk.kind !== 'external') return wantedStored(known, manifest);
    const inConfig = stored.find(({ vdev }) => vdev === disk.target);
    return {
      vdev: disk.target,
      kind: disk.kind === 'clone' ? 'storage' : disk.kind,
      image: known === undefined ? inConfig?.path : imageOf(known),
      imageFormat: known === undefined ? qemuFormat(inConfig?.format) : formatOf(known),
      tag: name,
      overlay: disk.kind === 'external' ? disk.path : '',
    };
  });
}

function ofManifest(disk: SnapshotDisk, manifest: Manifest): WantedDisk {
  const { vdev, kind } = disk;
  const image = { image: imageOf(disk), imageFormat: formatOf(disk) };
  switch (disk.kind) {
    case 'internal':
      return { vdev, kind, ...image, tag: disk.tag, overlay: '' };
    case 'external':
      return { vdev, kind, ...image, tag: '', overlay: disk.overlay };
    case 'storage':
      return wantedStored(disk, manifest);
  }
}

function wantedStored(disk: StorageDisk, manifest: Manifest | undefined): WantedDisk {
  const { vdev, kind, image } = disk;
  const identity = manifest?.identities?.find((one) => one.vdev === vdev);
  return { vdev, kind, image, imageFormat: 'raw', tag: '', overlay: '', stored: disk, identity };
}

function formatOf(disk: SnapshotDisk): string {
  switch (disk.kind) {
    case 'internal':
      return 'qcow2';
    case 'external':
      return disk.baseFormat;
    case 'storage':
      return 'raw';
  }
}

/**
 * Plans one disk.
 * @param current the domain's configuration now, if it runs
 * @throws {DiskError} If an image cannot be read
 */
export async function planDisk(
  host: ImageHost,
  wanted: WantedDisk,
  current: LibxlConfig | undefined,
): Promise<PlannedDisk> {
  if (wanted.kind === 'storage') return await planStored(host, wanted, current);
  const image = await findImage(host, wanted);
  if ('code' in image) return { problems: [image], risks: [] };
  const use = new CurrentImage(host, wanted.vdev, image, current);
  const before = await findUnrelated(wanted, image, use);
  const planned =
    wanted.kind === 'internal'
      ? await planInternal(wanted, image, use)
      : await planExternal(host, wanted, image, use);
  return { ...planned, risks: [...before, ...planned.risks] };
}

/** Plans to put back what a storage has. */
async function planStored(
  host: ImageHost,
  wanted: WantedDisk,
  current: LibxlConfig | undefined,
): Promise<PlannedDisk> {
  const { vdev, stored, identity } = wanted;
  if (stored === undefined) {
    const problem: Problem = {
      code: 'NO_STORED',
      message: `disk ${vdev}: no manifest says where the storage of the disk has its snapshot`,
      hint: 'put the manifest beside the memory file; without it, put the disk back by hand and leave it out of disks',
    };
    return { problems: [problem], risks: [] };
  }
  const then =
    identity?.snapshot === undefined
      ? undefined
      : { identity: identity.snapshot, virtualSize: identity.virtualSize };
  const { problems, risks } = await storageOf(host, stored).check(stored, then);
  if (problems.length > 0) return { problems, risks };
  const image = { path: stored.image, format: 'raw' };
  const use = new CurrentImage(host, vdev, image, current);
  const above = await findBroken(wanted, image, use);
  return {
    disk: stored,
    problems: [],
    risks: [...(await findUnrelated(wanted, image, use)), ...risks, ...above],
  };
}

/** Finds the image that a disk had at the snapshot. @returns what is wrong with it instead, if something is */
async function findImage(host: ImageHost, wanted: WantedDisk): Promise<SnapshotImage | Problem> {
  const { vdev, kind, image, imageFormat, tag } = wanted;
  if (image === undefined) {
    return { code: 'NO_SUCH_DISK', message: `disk ${vdev}: the domain had no such disk` };
  }
  if (!isAbsolute(image)) {
    // libxl leaves such a path as it is, and QEMU takes it from the directory where `xl create` was called.
    return {
      code: 'IMAGE_RELATIVE',
      message: `disk ${vdev}: cannot tell where its image ${image} is: the path is not absolute`,
      hint: 'write absolute paths into the disk= lines of the domain',
    };
  }
  if (kind === 'internal' && imageFormat !== 'qcow2') {
    // A guest can write what looks like a snapshot into its raw disk.
    return {
      code: 'IMAGE_FORMAT',
      message: `disk ${vdev}: its image ${image} has format ${imageFormat}; only qcow2 supports internal snapshots`,
    };
  }
  const info = await host.images.info(image, imageFormat);
  if (info === undefined) {
    return { code: 'NO_IMAGE', message: `disk ${vdev}: its image ${image} no longer exists` };
  }
  if (kind === 'internal' && !info.tags.includes(tag)) {
    return {
      code: 'NO_TAG',
      message: `disk ${vdev}: ${image} has no snapshot "${tag}"`,
      hint: `it has ${info.tags.length === 0 ? 'none' : info.tags.join(', ')}`,
    };
  }
  return { path: image, format: imageFormat };
}

/** Which image the domain uses for a disk now, and what that has to do with the image at the snapshot. */
class CurrentImage {
  /** Path of the image in use, if the domain runs and has that disk. */
  readonly path: string | undefined;
  readonly #host: ImageHost;
  readonly #image: SnapshotImage;
  readonly #format: string;

  constructor(host: ImageHost, vdev: string, image: SnapshotImage, current: LibxlConfig | undefined) {
    const own = current === undefined ? undefined : configDisks(current).find((disk) => disk.vdev === vdev);
    this.path = own?.path;
    this.#format = qemuFormat(own?.format);
    this.#host = host;
    this.#image = image;
  }

  /** Tells whether the domain uses that image itself. */
  async is(path: string): Promise<boolean> {
    return await isSame(this.path, path);
  }

  /** Tells whether the image in use depends on a file. */
  async dependsOn(path: string): Promise<boolean> {
    const { path: used } = this;
    if (used === undefined) return false;
    return await standsOn(this.#host.images, { path: used, format: this.#format }, path);
  }

  /** Tells whether the image at the snapshot depends on a file. */
  async isBelowSnapshot(path: string): Promise<boolean> {
    return await standsOn(this.#host.images, this.#image, path);
  }
}

async function isSame(path: string | undefined, other: string): Promise<boolean> {
  return path !== undefined && (await isSameImage(path, other));
}

/** Finds out whether the domain uses an image that is not the one at the snapshot, nor an overlay of it. */
async function findUnrelated(
  { vdev, overlay }: WantedDisk,
  image: SnapshotImage,
  use: CurrentImage,
): Promise<readonly Risk[]> {
  const { path: used } = use;
  if (used === undefined || (await use.is(image.path))) return [];
  if (await use.isBelowSnapshot(used)) {
    return [
      {
        risk: 'base-written',
        message: `disk ${vdev}: the domain writes to ${used}, which is below ${image.path} and has changed since the snapshot`,
        vdev,
      },
    ];
  }
  if ((await use.is(overlay)) || (await use.dependsOn(image.path))) return [];
  return [
    {
      risk: 'other-image',
      message: `disk ${vdev}: the domain now uses ${used}, which is unrelated to ${image.path}`,
      vdev,
    },
  ];
}

/** Plans to apply a tag. */
async function planInternal(
  wanted: WantedDisk,
  image: SnapshotImage,
  use: CurrentImage,
): Promise<PlannedDisk> {
  const { vdev, tag } = wanted;
  const risks = await findBroken(wanted, image, use);
  return { disk: { kind: 'internal', vdev, image: image.path, tag }, problems: [], risks };
}

/** Finds out whether the domain uses an overlay of the image, which is no longer right once that has another content. */
async function findBroken(
  { vdev }: WantedDisk,
  { path }: SnapshotImage,
  use: CurrentImage,
): Promise<readonly Risk[]> {
  if (use.path === undefined || (await use.is(path)) || !(await use.dependsOn(path))) return [];
  return [
    {
      risk: 'later-snapshot',
      message: `disk ${vdev}: ${use.path}, which the domain uses now, depends on ${path} and would be broken`,
      vdev,
    },
  ];
}

/** Plans a fresh overlay on the image. */
async function planExternal(
  host: ImageHost,
  { vdev, overlay }: WantedDisk,
  { path: base, format }: SnapshotImage,
  use: CurrentImage,
): Promise<PlannedDisk> {
  if ((await isSame(overlay, base)) || (await use.isBelowSnapshot(overlay))) {
    const problem: Problem = {
      code: 'OVERLAY_IS_BASE',
      message: `disk ${vdev}: ${overlay} holds the snapshot itself: an overlay cannot take its place`,
      hint: 'give the path of the overlay',
    };
    return { problems: [problem], risks: [] };
  }
  const risks: Risk[] = [];
  if (await use.is(base)) {
    risks.push({
      risk: 'base-written',
      message: `disk ${vdev}: the domain writes to ${base} itself, which has changed since the snapshot`,
      vdev,
    });
  }
  const replaced = await qcow2Info(host, overlay);
  if (replaced !== undefined) {
    if (replaced.tags.length > 0) {
      risks.push({
        risk: 'later-snapshot',
        message: `disk ${vdev}: ${overlay} holds later snapshots (${replaced.tags.join(', ')}) that would be lost`,
        vdev,
      });
    }
    if (use.path !== undefined && !(await use.is(overlay)) && (await use.dependsOn(overlay))) {
      risks.push({
        risk: 'later-snapshot',
        message: `disk ${vdev}: the later snapshot ${use.path} depends on the overlay ${overlay}`,
        vdev,
      });
    }
    if (!(await isSame(replaced.backing, base))) {
      risks.push({
        risk: 'not-an-overlay',
        message: `disk ${vdev}: ${overlay}, which would be replaced, is not an overlay of ${base}`,
        vdev,
      });
    }
  }
  // Where its name is a symbolic link, the file is replaced, and the link stays.
  const file = await truePath(overlay);
  const disk: RevertDisk = {
    kind: 'external',
    vdev,
    base,
    baseFormat: format,
    overlay: file,
    replaced: replaced === undefined ? undefined : file,
  };
  return { disk, problems: [], risks };
}

/** Reads the file at an overlay's place as qcow2, which an overlay is. A file of another format says nothing. */
async function qcow2Info(
  { images }: ImageHost,
  path: string,
): Promise<Pick<ImageInfo, 'tags' | 'backing'> | undefined> {
  try {
    return await images.info(path, 'qcow2');
  } catch (error) {
    if (error instanceof DiskError && error.code === 'IMAGE_FORMAT') return { tags: [], backing: undefined };
    throw error;
  }
}
