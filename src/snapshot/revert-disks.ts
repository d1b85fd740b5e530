import { rename, rm } from 'node:fs/promises';
import { describeError } from '../core/errors.ts';
import { exists } from './output-file.ts';
import type { Phases } from './phases.ts';
import type { Images } from './ports.ts';
import type { RevertDisk } from './types.ts';

/** What a disk was before the revert, kept until the revert is done. */
export type KeptDisk =
  | { readonly kind: 'tag'; readonly vdev: string; readonly image: string; readonly tag: string }
  | { readonly kind: 'file'; readonly vdev: string; readonly path: string };

/**
 * Puts every disk back, nobody using them. Each step has its undo in `phases`, so that a failure on one disk leaves all
 * as before; once this resolves, the undos are forgotten and what was replaced is in the result.
 *
 * @throws DiskError, OutputError, InterruptedError
 * @param mark tells this revert's files and tags from others'; `[0-9a-z-]`
 */
export async function revertDisks(
  images: Images,
  disks: readonly RevertDisk[],
  mark: string,
  phases: Phases,
): Promise<readonly KeptDisk[]> {
  const kept: KeptDisk[] = [];
  const forget: (() => void)[] = [];
  for (const disk of disks) {
    phases.checkpoint();
    if (disk.kind === 'internal') {
      const safety = `xlsnap-before-${mark}`;
      await images.createTag(disk.image, safety);
      forget.push(
        phases.onUndo(
          `put disk ${disk.vdev} back as it was`,
          `qemu-img snapshot -a ${safety} ${disk.image} && qemu-img snapshot -d ${safety} ${disk.image}`,
          async () => {
            await images.applyTag(disk.image, safety);
            await images.deleteTag(disk.image, safety);
          },
        ),
      );
      await images.applyTag(disk.image, disk.tag);
      kept.push({ kind: 'tag', vdev: disk.vdev, image: disk.image, tag: safety });
    } else {
      const aside = `${disk.overlay}.before-${mark}`;
      const fresh = `${disk.overlay}.fresh-${mark}`;
      const byHand =
        disk.replaced === undefined
          ? `rm -f ${fresh} ${disk.overlay}`
          : `rm -f ${fresh}; mv ${aside} ${disk.overlay}, if there is ${aside}`;
      forget.push(
        phases.onUndo(`put disk ${disk.vdev} back as it was`, byHand, async () => {
          await rm(fresh, { force: true });
          if (await exists(aside)) await rename(aside, disk.overlay);
          else if (disk.replaced === undefined) await rm(disk.overlay, { force: true });
        }),
      );
      await images.createOverlay(fresh, { path: disk.base, format: disk.baseFormat });
      if (disk.replaced !== undefined) {
        await rename(disk.overlay, aside);
        kept.push({ kind: 'file', vdev: disk.vdev, path: aside });
      }
      await rename(fresh, disk.overlay);
    }
  }
  phases.checkpoint();
  for (const one of forget) one();
  return kept;
}

/**
 * Removes what the revert replaced; with `keep`, overlays stay (safety tags never do).
 * @returns the files kept, and what could not be removed, with a warning for each
 */
export async function cleanKept(
  images: Images,
  kept: readonly KeptDisk[],
  keep: boolean,
  phases: Phases,
): Promise<{ files: readonly string[]; left: readonly KeptDisk[]; warnings: readonly string[] }> {
  const files: string[] = [];
  const left: KeptDisk[] = [];
  const warnings: string[] = [];
  for (const one of kept) {
    try {
      if (one.kind === 'tag') await phases.bounded(images.deleteTag(one.image, one.tag));
      else if (keep) files.push(one.path);
      else await rm(one.path, { force: true });
    } catch (error) {
      left.push(one);
      warnings.push(`${describeKept(one)} is still there: ${describeError(error)}`);
    }
  }
  return { files, left, warnings };
}

/** Where a disk's former content is. */
export function describeKept(one: KeptDisk): string {
  return one.kind === 'tag'
    ? `disk ${one.vdev} as it was before: snapshot ${one.tag} of ${one.image}`
    : `disk ${one.vdev} as it was before: ${one.path}`;
}
