/** Chains of backing files: the images below an image, and the programs that use it or one above it. */

import { constants } from 'node:fs';
import { open, realpath, stat } from 'node:fs/promises';
import { dirname, isAbsolute, resolve } from 'node:path';
import { DiskError, RecoverError } from '../../core/errors.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { Host, ImageInfo, Images, ImageUse } from '../ports.ts';

/** An image with the format that whoever uses it states. */
export interface StatedImage {
  readonly path: string;
  /** In QEMU's words. */
  readonly format: string;
}

/** Resolves symbolic links: images and their directories may be such links. */
export async function truePath(path: string): Promise<string> {
  return await realpath(path).catch(() => path);
}

/**
 * What two names of one image have in common: the device and inode of a file, which may have hard links and be below several
 * mounts; the number of a block device, which may have several nodes; else its true name.
 */
async function imageKey(path: string): Promise<string> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  if (found?.isBlockDevice() === true) return `block ${found.rdev}`;
  if (found?.isFile() === true) return `file ${found.dev} ${found.ino}`;
  return await truePath(path);
}

/** Tells whether two paths are names of one image. */
export async function isSameImage(path: string, other: string): Promise<boolean> {
  return (await imageKey(path)) === (await imageKey(other));
}

/**
 * The images below one, nearest first, by their true names. A raw image has none: what looks like a header in it was written by
 * its guest. A chain ends at what is not a file here, and where a file is missing.
 * @param options `formatUnstated`: decides the format of a backing file for which none is stated; default: that is an error.
 * `info`: what `Images.info` has just returned for `top`, so that it is not asked again.
 * @throws {DiskError} IMAGE_FORMAT behind an image whose format the one above it does not state, and for one that is neither a
 * file nor a block device
 */
export async function* chainBelow(
  images: Pick<Images, 'info'>,
  top: StatedImage,
  {
    formatUnstated = refuseUnstated,
    info,
  }: {
    readonly formatUnstated?: (image: string, backing: string) => Promise<string>;
    readonly info?: ImageInfo | undefined;
  } = {},
): AsyncGenerator<string> {
  // A chain may be made to loop.
  const seen = new Set([await truePath(top.path)]);
  let at: StatedImage | undefined = top;
  while (at !== undefined && at.format !== 'raw') {
    const { path }: StatedImage = at;
    const below = await backingOf(images, at, at === top ? info : undefined);
    if (below === undefined) return;
    const real = await truePath(below.path);
    if (seen.has(real)) return;
    seen.add(real);
    yield real;
    at = { path: below.path, format: below.format ?? (await formatUnstated(path, below.path)) };
  }
}

/**
 * Tells whether an image that is in use has another one below it. Where a format is not stated, asks the file itself, as the QEMU
 * that has opened it did: an overlay that an old qemu-img made for one domain must not block reverts of others, and what a
 * guest may have written there can only make this true too often.
 * @throws {DiskError} If an image in the chain is not of its stated format, or cannot be read
 */
export async function standsOn(
  images: Pick<Images, 'info'>,
  top: StatedImage,
  below: string,
): Promise<boolean> {
  const wanted = await imageKey(below);
  for await (const path of chainBelow(images, top, { formatUnstated: formatByMagic })) {
    if ((await imageKey(path)) === wanted) return true;
  }
  return false;
}

/** QFI\xfb: of the formats that QEMU probes for, the one that overlays have. */
const QCOW2_MAGIC = 0x514649fb;

async function formatByMagic(_image: string, backing: string): Promise<string> {
  const file = await open(backing, constants.O_RDONLY | constants.O_NONBLOCK).catch(() => undefined);
  if (file === undefined) return 'raw';
  try {
    const { buffer, bytesRead } = await file
      .read(Buffer.alloc(4), 0, 4, 0)
      .catch(() => ({ buffer: Buffer.of(), bytesRead: 0 }));
    return bytesRead === 4 && buffer.readUInt32BE(0) === QCOW2_MAGIC ? 'qcow2' : 'raw';
  } finally {
    await file.close();
  }
}

interface Backing {
  readonly path: string;
  readonly format: string | undefined;
}

/** A backing file with what identified the image's file when it was asked for. */
interface KnownBacking {
  readonly file: string;
  readonly backing: Backing | undefined;
}

/** Each step costs a process, and a revert asks for all chains before each change. */
const known = new WeakMap<Pick<Images, 'info'>, Map<string, KnownBacking>>();

/** A file that was written to so recently may be written to again without its time changing; milliseconds. */
const RECENT_MS = 2000;

async function backingOf(
  images: Pick<Images, 'info'>,
  { path, format }: StatedImage,
  answer: ImageInfo | undefined,
): Promise<Backing | undefined> {
  const file = await fileIdentity(path);
  const key = `${format}:${path}`;
  const before = known.get(images)?.get(key);
  if (before !== undefined && before.file === file) return before.backing;
  const info = answer ?? (await images.info(path, format));
  const name = info?.backing === undefined ? undefined : resolve(dirname(path), info.backing);
  const backing =
    name === undefined || !isFileName(info?.backing)
      ? undefined
      : { path: name, format: info?.backingFormat };
  if (file !== undefined && info !== undefined) {
    const all = known.get(images) ?? new Map<string, KnownBacking>();
    known.set(images, all.set(key, { file, backing }));
  }
  return backing;
}

/** Not `nbd://…`, `rbd:…` and other names of QEMU's block layer. */
function isFileName(name: string | undefined): boolean {
  return name !== undefined && (isAbsolute(name) || !/^[^/]*:/.test(name));
}

/** @returns `undefined` for what has no such identity: a device's time says nothing, and a recent one not enough */
async function fileIdentity(path: string): Promise<string | undefined> {
  const now = Date.now();
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  if (found === undefined || !found.isFile() || Number(found.mtimeMs) > now - RECENT_MS) return undefined;
  const { dev, ino, size, mtimeNs, ctimeNs } = found;
  return [dev, ino, size, mtimeNs, ctimeNs].join(' ');
}

async function refuseUnstated(image: string, backing: string): Promise<string> {
  throw new DiskError(
    'IMAGE_FORMAT',
    `${image} does not state the format of its backing file ${backing}: it would have to be guessed from what a guest wrote`,
    {
      hint: `with the domain down, qemu-img rebase -u -f qcow2 -F FORMAT -b ${shellQuote(backing)} ${shellQuote(image)}`,
    },
  );
}

/**
 * Finds the program that has an image, or one above it, open, if any; and which image that is.
 * @param except domid of a domain that does not count
 * @throws {DiskError} If an image in use cannot be read
 */
export async function userOf(host: Host, image: string, except?: number): Promise<ImageUse | undefined> {
  for (const used of await host.toolstack.imagesInUse()) {
    if (except !== undefined && used.domid === except) continue;
    if (await isUseOf(host, used, image)) return used;
  }
  return undefined;
}

/** Says how to free an image of its user: `shut it down`. */
export function howToRelease({ release = 'shut it down' }: ImageUse): string {
  return release;
}

/** Returns the error for an image that a program has open. */
export function inUseError(user: ImageUse): RecoverError {
  return new RecoverError('IMAGE_IN_USE', `${user.holder} uses ${user.path}`, {
    ...(user.domid === undefined ? {} : { domid: user.domid }),
    hint: `${howToRelease(user)}, then run the same command again`,
  });
}

/**
 * Tells whether a program that has an image open has another one open with it: the same, or one below.
 * @throws {DiskError} If it cannot be read
 */
export async function isUseOf(
  { images }: Pick<Host, 'images'>,
  { path, format }: Pick<ImageUse, 'path' | 'format'>,
  image: string,
): Promise<boolean> {
  if (await isSameImage(path, image)) return true;
  return format !== undefined && (await standsOn(images, { path, format }, image));
}

/**
 * Makes sure that no program has an image, or one above it, open: QEMU opens images without locks under Xen, and qemu-img would
 * corrupt one that is in use.
 * @throws {RecoverError} If it is in use (`IMAGE_IN_USE`)
 * @throws {DiskError} If an image in use cannot be read
 */
export async function refuseUsed(host: Host, image: string): Promise<void> {
  const user = await userOf(host, image);
  if (user !== undefined) throw inUseError(user);
}

/**
 * Returns the backing file of an overlay of ours.
 * @returns `undefined` when it has no backing file, or is not a qcow2 image
 * @throws {DiskError} If it cannot be read
 */
export async function baseOfOverlay(
  images: Pick<Images, 'info'>,
  overlay: string,
): Promise<string | undefined> {
  try {
    return (await images.info(overlay, 'qcow2'))?.backing;
  } catch (error) {
    if (error instanceof DiskError && error.code === 'IMAGE_FORMAT') return undefined;
    throw error;
  }
}
