/** What lies above and below an image. */
import { realpath } from 'node:fs/promises';
import { RecoverError } from '../../core/errors.ts';
import type { Host, ImageUse } from '../ports.ts';

/** A chain may be made to loop. */
const MOST_IMAGES = 256;

/** A file by its one true name: images and their directories may be symbolic links. */
export async function truePath(path: string): Promise<string> {
  return await realpath(path).catch(() => path);
}

/** The images below one, nearest first, by their true names. */
export async function chainBelow(host: Host, path: string): Promise<readonly string[]> {
  const below: string[] = [];
  let at: string | undefined = path;
  while (at !== undefined && below.length < MOST_IMAGES) {
    const info: { backing: string | undefined } | undefined = await host.images.info(at);
    at = info?.backing;
    if (at !== undefined) below.push(await truePath(at));
  }
  return below;
}

/**
 * Who has an image open, or one above it, if anyone; and by which image.
 * @param except domid of a domain that does not count
 */
export async function userOf(host: Host, image: string, except?: number): Promise<ImageUse | undefined> {
  const wanted = await truePath(image);
  for (const used of await host.toolstack.imagesInUse()) {
    if (except !== undefined && used.domid === except) continue;
    if ((await truePath(used.path)) === wanted) return used;
    if ((await chainBelow(host, used.path)).includes(wanted)) return used;
  }
  return undefined;
}

/**
 * Makes sure that nobody has an image open, or one above it: QEMU opens images without locks under Xen, and qemu-img would
 * corrupt one that is in use.
 * @throws RecoverError IMAGE_IN_USE
 */
export async function refuseUsed(host: Host, image: string): Promise<void> {
  const user = await userOf(host, image);
  if (user === undefined) return;
  throw new RecoverError('IMAGE_IN_USE', `${user.holder} uses ${user.path}`, {
    ...(user.domid === undefined ? {} : { domid: user.domid }),
    hint: 'shut it down, then run the same command again',
  });
}
