/** What is left of an external snapshot that was deleted without merging its overlays: the manifest, which names them. */
import { exists } from '../../core/files.ts';
import type { FoundManifest } from '../../memfile/find-manifests.ts';
import type { ExternalDisk, Manifest } from '../../memfile/manifest.ts';
import { configPathOf } from '../../memfile/names.ts';
import { baseOfOverlay, isSameImage } from '../images/chain.ts';
import { isBaseLost } from '../images/identity.ts';
import { journalPathOf } from '../naming.ts';
import type { ImageHost } from '../ports.ts';

/** Tells whether a snapshot was deleted, and its manifest kept for its overlays. Nothing else has a manifest alone, but a create. */
export async function isLeftOver({ memoryPath, manifest }: FoundManifest): Promise<boolean> {
  if (!manifest.disks.some(({ kind }) => kind === 'external')) return false;
  for (const path of [memoryPath, configPathOf(memoryPath), journalPathOf(memoryPath)]) {
    if (await exists(path)) return false;
  }
  return true;
}

/**
 * The external disks of a snapshot whose overlays are still on their bases, and could be merged into them: a delete keeps the
 * manifest for these.
 * @throws {DiskError} If an overlay cannot be read
 */
export async function mergeableLater(
  { images }: Pick<ImageHost, 'images'>,
  manifest: Manifest,
): Promise<readonly ExternalDisk[]> {
  const found: ExternalDisk[] = [];
  for (const disk of manifest.disks) {
    if (disk.kind !== 'external' || (await isBaseLost(manifest, disk))) continue;
    const { base, overlay } = disk;
    if (!(await exists(overlay)) || !(await exists(base))) continue;
    const backing = await baseOfOverlay(images, overlay);
    if (backing !== undefined && (await isSameImage(backing, base))) found.push(disk);
  }
  return found;
}
