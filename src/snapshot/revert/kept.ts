/** What a revert keeps of the former disks until it is done, and how to put one back by hand. */
import type { Phases } from '../phases.ts';
import type { Way } from './ways.ts';

/** A disk as it was before the revert. */
export type KeptDisk =
  | { readonly kind: 'tag'; readonly vdev: string; readonly image: string; readonly tag: string }
  | { readonly kind: 'file' | 'storage'; readonly vdev: string; readonly path: string };

/**
 * Registers putting one disk back as it was before the revert.
 * @returns a function that forgets this undo
 */
export function planRevertDiskUndo(
  phases: Phases,
  way: Way,
  mark: string,
  putBack: () => Promise<unknown>,
): () => void {
  const byHand = way.byHand('undo-revert', mark) ?? 'nothing';
  return phases.onUndo(`put disk ${way.disk.vdev} back as it was`, byHand, putBack);
}

/** Says where a disk's former content is. */
export function describeKept(disk: KeptDisk): string {
  return disk.kind === 'tag'
    ? `disk ${disk.vdev} as it was before: snapshot ${disk.tag} of ${disk.image}`
    : `disk ${disk.vdev} as it was before: ${disk.path}`;
}
