/**
 * Finds a domain's disks, and the node of QEMU's block graph that each of them is.
 *
 * A disk's name (`xvda`) leads to its device number, and that to the backend that libxl noted in xenstore. If
 * QEMU serves the disk (`qdisk`), QEMU's xen-block device holds a node `<vdev>-<driver>`. HVM guests also
 * have an emulated drive on the same image, until their kernel's PV drivers unplug it. An external snapshot
 * puts an overlay with another node name on top.
 */

import type { Limits } from '../../core/deadline.ts';
import type { Problem } from '../../core/problem.ts';
import { type ConfigDisk, configDisks, type LibxlConfig, qemuFormat } from '../../memfile/libxl-config.ts';
import type { QmpClient } from '../../qmp/client.ts';
import {
  type BlockDevice,
  type BlockNode,
  queryBlock,
  queryBlockJobs,
  queryNamedBlockNodes,
  queryVdev,
  type TransactionAction,
} from '../../qmp/commands.ts';
import { exampleOverlay } from '../../snapshot/naming.ts';
import type { DomainDisk } from '../../snapshot/ports.ts';
import type { XenstoreAccess } from '../../xenstore/access.ts';
import { plainPath } from './images.ts';
import { vdevToDevid } from './vdev.ts';

/** A disk, with what the device model and xenstore know about it. */
export interface ResolvedDisk extends DomainDisk {
  /** What serves the disk; undefined if xenstore has no such disk. */
  readonly backend: DiskBackend | undefined;
  /** Name of the QEMU node that the guest uses; undefined if there is none, or more than one. */
  readonly node: string | undefined;
  /** Name of a QEMU node that the disk has left: its image was merged into the one below. */
  readonly leftNode?: string | undefined;
  /** A free node name for an overlay on this disk. */
  readonly overlayNode: string;
}

/** A disk's backend in xenstore. */
export interface DiskBackend {
  /** `qdisk`: QEMU; `vbd`: the kernel's blkback; … */
  readonly kind: string;
  /** Domid of the backend's domain. */
  readonly domid: number;
  /** Directory of the backend in xenstore. */
  readonly path: string;
  /** The device that blkback has opened: `major:minor`, hexadecimal. */
  readonly device?: string | undefined;
}

/** What xenstore says about a disk. */
export interface StoredDisk {
  readonly vdev: string;
  readonly devid: number;
  readonly backend: DiskBackend | undefined;
  /** The image, from `params`; undefined if the drive is empty. */
  readonly image: { readonly path: string; readonly format: string } | undefined;
  readonly writable: boolean;
  readonly cdrom: boolean;
}

/** A drive of QEMU's. */
export interface Drive extends BlockDevice {
  /** Name of a xen-block device; only of one whose node has another name. */
  readonly vdev?: string | undefined;
}

/** What QEMU says about all disks. */
export interface BlockFacts {
  readonly devices: readonly Drive[];
  readonly nodes: readonly BlockNode[];
  /** Ids of the block jobs. */
  readonly jobs: readonly string[];
}

/**
 * Returns all disks of a domain, those of the configuration first. What prevents a snapshot is in `internal`
 * and `external`, never thrown. Errors of the xenstore and QMP connections are passed on.
 * @param qmp `undefined` if the domain has no QEMU
 */
export async function resolveDisks(
  domid: number,
  config: LibxlConfig,
  xenstore: XenstoreAccess,
  qmp: QmpClient | undefined,
  limits?: Limits,
): Promise<ResolvedDisk[]> {
  const stored = await readStoredDisks(domid, xenstore);
  const facts = qmp === undefined ? undefined : await readBlockFacts(qmp, limits);
  return matchDisks(configDisks(config), stored, facts);
}

/** Returns the action of a transaction that takes an internal snapshot of this disk. */
export function internalAction(disk: ResolvedDisk, tag: string): TransactionAction | undefined {
  if (disk.node === undefined) return undefined;
  return { type: 'blockdev-snapshot-internal-sync', data: { device: disk.node, name: tag } };
}

/** Returns the action of a transaction that puts a new overlay on this disk. */
export function externalAction(disk: ResolvedDisk, overlay: string): TransactionAction | undefined {
  if (disk.node === undefined) return undefined;
  return {
    type: 'blockdev-snapshot-sync',
    data: {
      'node-name': disk.node,
      'snapshot-file': overlay,
      format: 'qcow2',
      'snapshot-node-name': disk.overlayNode,
    },
  };
}

/** Reads the disks below /libxl/<domid>/device/vbd, and what their backends say. */
export async function readStoredDisks(domid: number, xenstore: XenstoreAccess): Promise<StoredDisk[]> {
  const directory = `/libxl/${domid}/device/vbd`;
  const devids = await xenstore.listMaybe(directory);
  const disks: StoredDisk[] = [];
  for (const name of devids) {
    const own = `${directory}/${name}`;
    const path = await xenstore.readMaybe(`${own}/backend`);
    const backend = path === undefined ? undefined : toBackend(path);
    // The backend reads its own directory; libxl's is the same at creation.
    const read = async (key: string): Promise<string | undefined> =>
      (path === undefined ? undefined : await xenstore.readMaybe(`${path}/${key}`)) ??
      (await xenstore.readMaybe(`${own}/${key}`));
    const device = backend?.kind === 'vbd' ? await read('physical-device') : undefined;
    disks.push({
      vdev: (await read('dev')) ?? name,
      devid: Number(name),
      backend: backend === undefined || device === undefined ? backend : { ...backend, device },
      image: toImage(await read('params')),
      writable: (await read('mode')) === 'w',
      cdrom: (await read('device-type')) === 'cdrom',
    });
  }
  return disks;
}

/** Asks QEMU for drives, nodes and jobs. */
export async function readBlockFacts(qmp: QmpClient, limits?: Limits): Promise<BlockFacts> {
  const [devices, nodes, jobs] = await Promise.all([
    queryBlock(qmp, limits).then((found) => Promise.all(found.map((one) => withVdev(qmp, one, limits)))),
    queryNamedBlockNodes(qmp, limits),
    queryBlockJobs(qmp, limits),
  ]);
  return { devices, nodes, jobs: jobs.map(({ id, type }) => (id === '' ? type : id)) };
}

/** Asks for the name of a xen-block device whose node does not say it: an image that was opened as a backing file. */
async function withVdev(qmp: QmpClient, device: BlockDevice, limits?: Limits): Promise<Drive> {
  const { qdev, inserted } = device;
  if (device.device !== '' || qdev === undefined || inserted?.nodeName.startsWith('#') !== true)
    return device;
  return { ...device, vdev: await queryVdev(qmp, qdev, limits) };
}

/** Joins the three descriptions of a domain's disks. */
export function matchDisks(
  config: readonly ConfigDisk[],
  stored: readonly StoredDisk[],
  facts: BlockFacts | undefined,
): ResolvedDisk[] {
  const wanted: StoredDisk[] = config.map((disk) => {
    const devid = vdevToDevid(disk.vdev);
    const known = stored.find((disk) => disk.devid === devid);
    const format = qemuFormat(disk.format);
    return {
      vdev: disk.vdev,
      devid: devid ?? -1,
      writable: disk.writable && known?.writable !== false,
      cdrom: disk.cdrom || known?.cdrom === true,
      // Since the configuration was stored, a medium may have been changed, or an overlay added.
      image:
        known === undefined
          ? disk.path === undefined
            ? undefined
            : { path: disk.path, format }
          : known.image,
      backend: known?.backend,
    };
  });
  // Attached without libxl's configuration. Leaving a disk out would make an incomplete snapshot.
  for (const disk of stored) {
    if (!wanted.some(({ devid }) => devid === disk.devid)) wanted.push(disk);
  }
  const vdevs = wanted.map(({ vdev }) => vdev);
  return wanted.map((disk) => resolveOne(disk, vdevs, facts));
}

function resolveOne(disk: StoredDisk, vdevs: readonly string[], facts: BlockFacts | undefined): ResolvedDisk {
  const { vdev, devid, writable, cdrom, backend } = disk;
  const overlayNode = freeNodeName(vdev, facts?.nodes ?? []);
  const found = facts === undefined ? [] : candidates(disk, vdevs, facts.devices);
  const node = found.length === 1 ? found[0]?.inserted : undefined;
  const image = node === undefined ? disk.image : { path: plainPath(node.file), format: node.driver };
  const common = [
    ...ownObstacles(disk),
    ...(writable && !cdrom ? [...backendObstacles(disk, facts), ...nodeObstacles(disk, found, facts)] : []),
  ];
  return {
    vdev,
    devid,
    writable,
    cdrom,
    path: image?.path,
    format: image?.format,
    backend,
    node: node?.nodeName,
    leftNode: node === undefined ? undefined : findLeftNode(vdev, node, facts?.nodes ?? []),
    overlayNode,
    internal: node === undefined ? common : [...common, ...imageObstacles(vdev, node)],
    external: common,
  };
}

/** Finds obstacles in the nature of the disk. */
function ownObstacles({ vdev, cdrom, writable, devid }: StoredDisk): Problem[] {
  const obstacles: Problem[] = [];
  if (devid < 0) obstacles.push({ code: 'DISK_NAME', message: `${vdev} is not the name of a virtual disk` });
  if (cdrom) obstacles.push({ code: 'DISK_CDROM', message: `disk ${vdev} is a CD-ROM drive` });
  else if (!writable) {
    obstacles.push({ code: 'DISK_READ_ONLY', message: `disk ${vdev} is read-only: it never changes` });
  }
  return obstacles;
}

/** Finds obstacles in what serves the disk. */
function backendObstacles({ vdev, backend, image }: StoredDisk, facts: BlockFacts | undefined): Problem[] {
  if (backend === undefined) {
    return [{ code: 'DISK_NO_BACKEND', message: `disk ${vdev}: xenstore has no backend for it` }];
  }
  const where = image === undefined ? '' : ` on ${image.path}`;
  if (backend.kind !== 'qdisk') {
    return [
      {
        code: 'DISK_BACKEND',
        message: `disk ${vdev}${where} is served by ${backendName(backend.kind)}, which cannot snapshot it`,
        hint: 'keep it on a volume of LVM, or in a raw file on XFS or btrfs; or let QEMU serve it: set backendtype=qdisk in its disk= line (with format=qcow2 and a qcow2 image for internal snapshots), then shut the domain down and start it again',
      },
    ];
  }
  if (backend.domid !== 0) {
    return [
      {
        code: 'DISK_DRIVER_DOMAIN',
        message: `disk ${vdev} is served by domain ${backend.domid}, whose QEMU cannot be reached from here`,
        hint: 'let dom0 serve it',
      },
    ];
  }
  if (facts === undefined) {
    return [{ code: 'DISK_NO_QEMU', message: `disk ${vdev}: the QEMU that should serve it does not answer` }];
  }
  return [];
}

/** Finds obstacles in QEMU's block graph. */
function nodeObstacles(
  { vdev, backend, image }: StoredDisk,
  found: readonly Candidate[],
  facts: BlockFacts | undefined,
): Problem[] {
  if (facts === undefined || backend?.kind !== 'qdisk' || backend.domid !== 0) return [];
  const [only, ...others] = found;
  if (only === undefined) {
    return [
      {
        code: 'DISK_NO_NODE',
        message: `disk ${vdev}: QEMU has no block node for it (looked for ${vdev}-* and ${image?.path ?? 'its image'})`,
        hint: 'has the guest booted far enough to use the disk?',
      },
    ];
  }
  if (others.length > 0) {
    const nodes = found
      .map(({ device, inserted }) => (device === '' ? inserted.nodeName : device))
      .join(' and ');
    return [
      {
        code: 'DISK_TWO_NODES',
        message: `disk ${vdev}: QEMU has its image open twice, as ${nodes}; a snapshot through one would corrupt it for the other`,
        hint: "the emulated drive disappears when the guest's PV disk driver starts: wait until the guest has booted, or install PV drivers in it",
      },
    ];
  }
  const { inserted } = only;
  const obstacles: Problem[] = [];
  if (inserted.readOnly) {
    obstacles.push({
      code: 'DISK_NODE_READ_ONLY',
      message: `disk ${vdev}: QEMU has node ${inserted.nodeName} open read-only`,
    });
  }
  if (!plainPath(inserted.file).startsWith('/')) {
    obstacles.push({
      code: 'DISK_NO_FILE',
      message: `disk ${vdev}: its image ${inserted.file} is neither a file nor a block device here`,
    });
  }
  if (inserted.encrypted) {
    obstacles.push({
      code: 'DISK_ENCRYPTED',
      message: `disk ${vdev}: the image ${inserted.file} is encrypted by QEMU; a revert could not open it`,
    });
  }
  const writers = facts.nodes.filter(
    (node) =>
      !node.readOnly &&
      node.driver === inserted.driver &&
      node.file === inserted.file &&
      node.nodeName !== inserted.nodeName,
  );
  if (writers.length > 0) {
    obstacles.push({
      code: 'DISK_SECOND_WRITER',
      message: `disk ${vdev}: ${inserted.file} is also open for writing as node ${writers.map((node) => node.nodeName).join(', ')}`,
      hint: 'an image that two disks share cannot be snapshotted',
    });
  }
  if (facts.jobs.length > 0) {
    obstacles.push({
      code: 'DISK_BLOCK_JOB',
      message: `disk ${vdev}: QEMU has a block job running: ${facts.jobs.join(', ')}`,
      hint: 'wait until it ends; if a command of xlsnap was killed, xlsnap recover ends it',
    });
  }
  return obstacles;
}

/** Finds obstacles in the image, to an internal snapshot only. */
function imageObstacles(vdev: string, node: BlockNode): Problem[] {
  const hint = `take an external one: disks=['${exampleOverlay(plainPath(node.file))},qcow2,${vdev}']`;
  if (node.driver !== 'qcow2') {
    return [
      {
        code: 'DISK_NOT_QCOW2',
        message: `disk ${vdev}: ${node.file} has format ${node.driver}; only qcow2 supports internal snapshots`,
        hint,
      },
    ];
  }
  if (node.externalData) {
    const message = `disk ${vdev}: ${node.file} has an external data file, so it does not support internal snapshots`;
    return [{ code: 'DISK_DATA_FILE', message, hint }];
  }
  return [];
}

interface Candidate {
  readonly device: string;
  readonly vdev?: string | undefined;
  readonly inserted: BlockNode;
}

/**
 * Returns the drives that hold this disk, normally at most one of each kind. xen-block's drives have no name
 * in `device`, emulated ones do. For each kind the surest sign decides: the name of the node or the device, the image, or
 * that the image is a base.
 */
function candidates(disk: StoredDisk, vdevs: readonly string[], devices: readonly Drive[]): Candidate[] {
  const drives = devices.flatMap(({ device, vdev, inserted }) =>
    inserted === undefined ? [] : [{ device, vdev, inserted }],
  );
  const path = disk.image?.path;
  const named = (drive: Candidate): string | undefined =>
    vdevs.find((vdev) => isNodeOf(vdev, drive.inserted) || isSameVdev(vdev, drive.vdev));
  const signs: readonly ((drive: Candidate) => boolean)[] = [
    (drive) => named(drive) === disk.vdev,
    (drive) => named(drive) === undefined && plainPath(drive.inserted.file) === path,
    // After an external snapshot by a program that did not update xenstore.
    (drive) =>
      named(drive) === undefined &&
      path !== undefined &&
      drive.inserted.backingFiles.some((file) => plainPath(file) === path),
  ];
  return [drives.filter(({ device }) => device === ''), drives.filter(({ device }) => device !== '')].flatMap(
    (some) => signs.map((sign) => some.filter(sign)).find((matching) => matching.length > 0) ?? [],
  );
}

/** Returns whether xen-block, or xlsnap, named the node for this disk. */
function isNodeOf(vdev: string, node: BlockNode): boolean {
  return isXenNodeOf(vdev, node) || node.nodeName.startsWith(`xlsnap-${vdev}-`);
}

/** Finds the node on which the disk began, if that is no longer a part of the disk. */
function findLeftNode(vdev: string, top: BlockNode, nodes: readonly BlockNode[]): string | undefined {
  const chain = [top.file, ...top.backingFiles].map(plainPath);
  return nodes.find((node) => isXenNodeOf(vdev, node) && !chain.includes(plainPath(node.file)))?.nodeName;
}

/** Returns whether xen-block named the node for this disk. */
function isXenNodeOf(vdev: string, { nodeName, driver }: BlockNode): boolean {
  return nodeName === `${vdev}-${driver}`;
}

function isSameVdev(vdev: string, other: string | undefined): boolean {
  const devid = vdevToDevid(vdev);
  return other !== undefined && devid !== undefined && devid === vdevToDevid(other);
}

/** Makes a node name for an overlay; QEMU accepts at most 31 characters. */
function freeNodeName(vdev: string, nodes: readonly BlockNode[]): string {
  for (let n = 1; ; n++) {
    const name = `xlsnap-${vdev}-${n}`;
    if (!nodes.some(({ nodeName }) => nodeName === name)) return name;
  }
}

function backendName(kind: string): string {
  return kind === 'vbd' ? 'the kernel (blkback)' : `a backend of kind ${kind}`;
}

/** Parses `/local/domain/0/backend/qdisk/5/51712`. */
function toBackend(path: string): DiskBackend | undefined {
  const [, domid, kind] = /^\/local\/domain\/([0-9]+)\/backend\/([^/]+)\//.exec(path) ?? [];
  return kind === undefined ? undefined : { kind, domid: Number(domid), path };
}

/** Parses `qcow2:/path`, or a plain path (blkback). */
function toImage(params: string | undefined): { path: string; format: string } | undefined {
  const [, format = 'raw', path] = /^(?:([a-z0-9]+):)?(.*)$/s.exec(params ?? '') ?? [];
  return path === undefined || path === '' ? undefined : { path, format: qemuFormat(format) };
}
