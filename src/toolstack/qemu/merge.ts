/**
 * Merges the overlay that a disk is on, with the nodes of QEMU's block graph that are left of it.
 *
 * xen-block adds the image that a domain is started on as `<vdev>-<driver>`, and deletes that node with the device
 * (hw/block/xen-block.c). If the image is an overlay, and is merged, the device moves to the node below, and the overlay's stays:
 * it has its file open, and the node below as its backing file. QEMU neither merges nor snapshots a node that another node is
 * on (qmp_get_root_bs in its blockdev.c; bdrv_set_backing_hd in its block.c). Overlays that a transaction put on a disk belong to
 * the disk alone, and go with their merge.
 */
import type { Limits } from '../../core/deadline.ts';
import { DiskError, describeError, throwIfAborted } from '../../core/errors.ts';
import type { QmpClient } from '../../qmp/client.ts';
import {
  type BlockNode,
  type CommitWatch,
  commitOverlay,
  deleteNode,
  queryNamedBlockNodes,
} from '../../qmp/commands.ts';
import { QmpCommandError } from '../../qmp/errors.ts';
import type { ResolvedDisk } from './disks.ts';
import { plainPath } from './images.ts';

/** What a merge is about. */
export interface NodeMerge {
  readonly vdev: string;
  /** The disk's top node. */
  readonly node: BlockNode;
  /** The image right below, as QEMU names it. */
  readonly below: string;
}

/**
 * Deletes the node that an earlier merge has left of a disk: by a process that was killed, or by a version of xlsnap that did not
 * know of it.
 */
export async function deleteLeftNode(
  client: QmpClient,
  { leftNode }: Pick<ResolvedDisk, 'leftNode'>,
  limits?: Limits,
): Promise<void> {
  if (leftNode === undefined) return;
  try {
    await deleteNode(client, leftNode, limits);
  } catch (error) {
    // QEMU refuses if it no longer exists, or if anything uses it: what another program has put on it.
    if (!(error instanceof QmpCommandError)) throw error;
  }
}

/**
 * Merges the top node of a disk into the image below, as `commitOverlay` does.
 * @param limits for each command
 * @param jobLimits for each step of the job. Default: no limit
 * @param onWarning receives what went wrong once the disk was on the image below
 * @throws {DiskError} IMAGE_IN_USE if another node is on the overlay; nothing has changed then
 */
export async function mergeNode(
  client: QmpClient,
  { vdev, node, below }: NodeMerge,
  limits: Limits,
  jobLimits?: Limits,
  { onWarning, ...watch }: CommitWatch & { readonly onWarning?: ((text: string) => void) | undefined } = {},
): Promise<void> {
  try {
    await commitOverlay(client, node.nodeName, below, jobLimits, watch);
  } catch (error) {
    if (!(error instanceof QmpCommandError) || error.description !== NOT_A_ROOT) throw error;
    throw await usedError(client, vdev, node, limits, error);
  }
  try {
    const nodes = await queryNamedBlockNodes(client, limits);
    if (nodes.some(({ nodeName }) => nodeName === node.nodeName)) {
      await deleteNode(client, node.nodeName, limits);
    }
  } catch (error) {
    throwIfAborted(jobLimits?.signal);
    // The merge is done.
    onWarning?.(
      `disk ${vdev}: its QEMU may keep ${plainPath(node.file)} open, with its space, until the domain ends (${describeError(error)})`,
    );
  }
}

/** QEMU's words for a node that another node is on. */
const NOT_A_ROOT = 'Need a root block node';

async function usedError(
  client: QmpClient,
  vdev: string,
  { nodeName, file }: BlockNode,
  limits: Limits,
  cause: QmpCommandError,
): Promise<DiskError> {
  const nodes = await queryNamedBlockNodes(client, limits).catch(() => []);
  const users = nodes
    .filter((node) => node.nodeName !== nodeName && node.backingFiles[0] === file)
    .map((node) => ` (${node.nodeName})`);
  return new DiskError(
    'IMAGE_IN_USE',
    `disk ${vdev}: another block node of its QEMU${users.join('')} is on ${plainPath(file)}, so that cannot be merged`,
    {
      cause,
      hint: 'end what uses that node, a backup for example, or shut the domain down; then run the same command again',
    },
  );
}
