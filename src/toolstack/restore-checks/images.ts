/** Checks whether the images that a configuration names exist. */

import { stat } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { describeError, errnoCode } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { numberOf, recordsOf, textOf } from '../../memfile/libxl-fields.ts';

/**
 * Checks the images of all disks, including read-only ones. libxl itself checks those that it serves by
 * blkback. If QEMU serves a missing one, the domain comes up without that disk, and nothing reports it.
 *
 * Skipped are images of backends in other domains, images that a block script interprets, and anything that
 * is not an absolute path, such as a name of QEMU's block layer (`rbd:…`).
 * @param known disks, by vdev, that other checks cover
 */
export async function imageObstacles(config: LibxlConfig, known: ReadonlySet<string>): Promise<Problem[]> {
  const obstacles: Problem[] = [];
  for (const disk of recordsOf(config, 'disks')) {
    const vdev = textOf(disk, 'vdev') ?? '?';
    const path = textOf(disk, 'pdev_path');
    if (path === undefined || !isAbsolute(path) || known.has(vdev)) continue;
    if (textOf(disk, 'script') !== undefined || isElsewhere(disk)) continue;
    const problem = await imageProblem(path);
    if (problem === undefined) continue;
    obstacles.push({
      code: 'IMAGE_GONE',
      message: `disk ${vdev}: its image ${path} ${problem}`,
      hint: 'put it back; if the guest does not need it, any file in its place will do',
    });
  }
  return obstacles;
}

/** Returns whether a domain other than dom0 serves a device. */
export function isElsewhere(device: Readonly<Record<string, unknown>>): boolean {
  const name = textOf(device, 'backend_domname');
  if (name !== undefined && name !== '0' && name !== 'Domain-0') return true;
  return (numberOf(device, 'backend_domid') ?? 0) !== 0;
}

async function imageProblem(path: string): Promise<string | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() || found.isBlockDevice() ? undefined : 'is neither a file nor a block device';
  } catch (error) {
    return errnoCode(error) === 'ENOENT' ? 'no longer exists' : `cannot be reached: ${describeError(error)}`;
  }
}
