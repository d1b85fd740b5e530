/** Opens the ports that need no Xen: image files, by qemu-img. */
import type { ImageHost, ImageUse } from '../snapshot/ports.ts';
import { XenstoreClient } from '../xenstore/client.ts';
import { XenstoreError } from '../xenstore/errors.ts';
import { imagesInUse } from './libxl/images-in-use.ts';
import { QemuImages } from './qemu/images.ts';
import { sharedSizes } from './storage/shared-size.ts';
import { shippedStorages } from './storage/shipped.ts';

/** Makes the host of image files, by qemu-img. It works on any machine, without Xen. */
export function imageHost(options: { readonly signal?: AbortSignal } = {}): ImageHost {
  return {
    images: new QemuImages(options),
    storages: shippedStorages(),
    imagesInUse: () => imagesOfDomains(options),
    sharedBytes: sharedSizes(),
  };
}

/** Who has which image open, if xenstored runs: without it, no domain does. */
async function imagesOfDomains(options: { readonly signal?: AbortSignal }): Promise<readonly ImageUse[]> {
  try {
    await using xenstore = await XenstoreClient.connect(options);
    return await imagesInUse(xenstore);
  } catch (error) {
    if (error instanceof XenstoreError) return [];
    throw error;
  }
}
