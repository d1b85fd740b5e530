/** What a revert keeps of the former disks until it is done, and how to put one back by hand. */
import { shellQuote } from '../../core/shell-quote.ts';
import type { RevertDisk } from '../api.ts';
import type { Phases } from '../phases.ts';
import type { Host } from '../ports.ts';
import { storageOf } from '../storage/find.ts';
import { asidePath, freshPath, safetyTag } from './names.ts';

/** A disk as it was before the revert. */
export type KeptDisk =
  | { readonly kind: 'tag'; readonly vdev: string; readonly image: string; readonly tag: string }
  | { readonly kind: 'file'; readonly vdev: string; readonly path: string }
  | {
      readonly kind: 'storage';
      readonly vdev: string;
      /** Where its former content is. */
      readonly path: string;
      readonly forget: () => Promise<boolean>;
    };

/**
 * Registers putting one disk back as it was before the revert.
 * @returns a function that forgets this undo
 */
export function planRevertDiskUndo(
  phases: Phases,
  host: Pick<Host, 'storages'>,
  disk: RevertDisk,
  mark: string,
  putBack: () => Promise<unknown>,
): () => void {
  return phases.onUndo(`put disk ${disk.vdev} back as it was`, byHand(host, disk, mark), putBack);
}

function byHand(host: Pick<Host, 'storages'>, disk: RevertDisk, mark: string): string {
  if (disk.kind === 'storage') return storageOf(host, disk).byHand(disk, 'undo-revert', mark);
  if (disk.kind === 'internal') {
    const tag = safetyTag(mark);
    const image = shellQuote(disk.image);
    return `qemu-img snapshot -a ${tag} ${image} && qemu-img snapshot -d ${tag} ${image}`;
  }
  const overlay = shellQuote(disk.overlay);
  const aside = shellQuote(asidePath(disk.overlay, mark));
  const fresh = shellQuote(freshPath(disk.overlay, mark));
  return disk.replaced === undefined
    ? `rm -f ${fresh} ${overlay}`
    : `rm -f ${fresh}; mv ${aside} ${overlay}, if ${aside} exists`;
}

/** Says where a disk's former content is. */
export function describeKept(disk: KeptDisk): string {
  return disk.kind === 'tag'
    ? `disk ${disk.vdev} as it was before: snapshot ${disk.tag} of ${disk.image}`
    : `disk ${disk.vdev} as it was before: ${disk.path}`;
}
