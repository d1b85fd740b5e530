/** Opens the ports that need no Xen: image files, by qemu-img. */
import type { ImageHost } from '../snapshot/ports.ts';
import { QemuImages } from './qemu/images.ts';
import { shippedStorages } from './storage/shipped.ts';

/** Makes the host of image files, by qemu-img. It works on any machine, without Xen. */
export function imageHost(options: { readonly signal?: AbortSignal } = {}): ImageHost {
  return { images: new QemuImages(options), storages: shippedStorages() };
}
