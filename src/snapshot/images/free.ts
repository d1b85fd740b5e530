/** Changes images that no program has open, and checks that right before each change. */
import { rename, rm } from 'node:fs/promises';
import type { Host, OnProgress } from '../ports.ts';
import { refuseUsed } from './chain.ts';

/**
 * Everything that changes an image other than by its own QEMU. Each method rejects with RecoverError IMAGE_IN_USE, and
 * changes nothing, when a domain or dom0's kernel has the image open, or one that is above it.
 */
export interface FreeImages {
  createTag(path: string, tag: string): Promise<void>;
  applyTag(path: string, tag: string): Promise<void>;
  deleteTag(path: string, tag: string): Promise<void>;
  /** Merges an overlay into its base. */
  commitOverlay(
    overlay: string,
    base: string,
    options?: { readonly onProgress?: OnProgress | undefined },
  ): Promise<void>;
  /** Gives an image another name; a file of that name, which must be free too, is replaced. */
  rename(path: string, to: string): Promise<void>;
  /** Removes an image, if it is there. */
  remove(path: string): Promise<void>;
}

/** Returns methods that change images of a host, each only if no program has the image open. */
export function freeImages(host: Host): FreeImages {
  const { images } = host;
  const asked =
    <Args extends readonly unknown[]>(change: (path: string, ...args: Args) => Promise<void>) =>
    async (path: string, ...args: Args): Promise<void> => {
      await refuseUsed(host, path);
      await change(path, ...args);
    };
  return {
    createTag: asked((path, tag: string) => images.createTag(path, tag)),
    applyTag: asked((path, tag: string) => images.applyTag(path, tag)),
    deleteTag: asked((path, tag: string) => images.deleteTag(path, tag)),
    commitOverlay: async (overlay, base, options) => {
      // A loop device has the overlay open without its base.
      await refuseUsed(host, overlay);
      await refuseUsed(host, base);
      await images.commitOverlay(overlay, options);
    },
    rename: async (path, to) => {
      await refuseUsed(host, path);
      await refuseUsed(host, to);
      await rename(path, to);
    },
    remove: asked((path) => rm(path, { force: true })),
  };
}
