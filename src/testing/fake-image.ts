/** Disk images of the fake host: small real files, so that paths, renames, removals and times are real. */
import { existsSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { DiskError } from '../core/errors.ts';
import type { ImageInfo } from '../snapshot/ports.ts';

/** The contents of an image. */
export interface FakeImage {
  format: string;
  /** What the guest has written. */
  content: string;
  /** Internal snapshots: name to content. */
  tags: Record<string, string>;
  /** Distinguishes tags of the same name: name to a number that no other tag of any image has. */
  tagNumbers?: Record<string, number>;
  backing?: string;
  /**
   * The backing file's format that this image states; empty if not stated. Default: that file's real format.
   */
  backingFormat?: string;
  /** What a guest has written to its raw disk to make it look like another image. */
  pretends?: FakeImage;
  /** Size in bytes. */
  virtualSize?: number;
}

const DEFAULT_SIZE = 1 << 20;
let tagNumber = 0;

/** Creates an image, or writes to it. Its modification time always changes, however soon that is. */
export function writeImage(path: string, image: FakeImage): void {
  const before = existsSync(path) ? statSync(path).mtimeMs : 0;
  writeFileSync(path, JSON.stringify(image));
  const now = statSync(path).mtimeMs;
  if (now <= before) utimesSync(path, new Date(), new Date(Math.floor(before) + 1));
}

/** Reads an image. */
export function readImage(path: string): FakeImage {
  return JSON.parse(readFileSync(path, 'utf8')) as FakeImage;
}

/** Returns what the guest reads from a disk: an overlay without data of its own shows its backing file. */
export function contentOf(path: string): string {
  const image = readImage(path);
  return image.content !== '' || image.backing === undefined ? image.content : contentOf(image.backing);
}

/** Returns the image and all images below it. */
export function chainOf(path: string): readonly string[] {
  if (!existsSync(path) || !statSync(path).isFile()) return [path];
  const { backing } = readImage(path);
  return backing === undefined ? [path] : [path, ...chainOf(backing)];
}

/** Tells whether two paths are names of one file. */
export function isSameFile(path: string, other: string): boolean {
  if (path === other) return true;
  const [one, two] = [path, other].map((name) => statSync(name, { throwIfNoEntry: false }));
  return one !== undefined && two !== undefined && one.dev === two.dev && one.ino === two.ino;
}

/** Takes an internal snapshot of an image. */
export function tagImage(path: string, tag: string): void {
  const image = readImage(path);
  const tags = { ...image.tags, [tag]: image.content };
  writeImage(path, { ...image, tags, tagNumbers: { ...image.tagNumbers, [tag]: ++tagNumber } });
}

/**
 * Removes an internal snapshot.
 * @returns whether there was one
 */
export function untagImage(path: string, tag: string): boolean {
  const image = readImage(path);
  if (!(tag in image.tags)) return false;
  delete image.tags[tag];
  delete image.tagNumbers?.[tag];
  // As if there had never been one.
  if (Object.keys(image.tags).length === 0) delete image.tagNumbers;
  writeImage(path, image);
  return true;
}

/**
 * Merges an overlay into the image below it.
 * @returns the path of that image
 */
export function mergeImage(path: string): string | undefined {
  const { content, backing } = readImage(path);
  if (backing !== undefined && content !== '') writeImage(backing, { ...readImage(backing), content });
  return backing;
}

/**
 * Returns what an image is to a program that opens it with a format.
 * @throws {DiskError} IMAGE_FORMAT if it does not have that format.
 */
function asFormat(path: string, image: FakeImage, format: string): FakeImage {
  if (format === 'raw') return { format, content: '', tags: {} };
  if (image.format === format) return image;
  if (image.pretends?.format === format) return image.pretends;
  throw new DiskError('IMAGE_FORMAT', `${path}: Image is not in ${format} format`);
}

function statedFormat(backing: string, stated: string | undefined): string | undefined {
  if (stated !== undefined) return stated === '' ? undefined : stated;
  return existsSync(backing) && statSync(backing).isFile() ? readImage(backing).format : 'raw';
}

/**
 * Describes an image as `qemu-img info -f FORMAT` does.
 * @throws {DiskError} IMAGE_FORMAT if it does not have that format, or is not a file.
 */
export function describeImage(path: string, format: string): ImageInfo | undefined {
  if (!existsSync(path)) return undefined;
  if (!statSync(path).isFile()) {
    throw new DiskError('IMAGE_FORMAT', `${path} is neither a file nor a block device`);
  }
  const image = readImage(path);
  const { tags, tagNumbers, backing, backingFormat, virtualSize } = asFormat(path, image, format);
  return {
    path,
    format,
    virtualSize: virtualSize ?? DEFAULT_SIZE,
    snapshots: Object.keys(tags).map((name, at) => {
      const number = tagNumbers?.[name] ?? 0;
      return {
        // It stays the same when other tags are deleted.
        id: String(tagNumbers?.[name] ?? at + 1),
        name,
        dateSec: 1_700_000_000 + number,
        dateNsec: number,
        vmClockNsec: String(number),
        vmStateSize: 0,
      };
    }),
    tags: Object.keys(tags),
    backing,
    backingFormat: backing === undefined ? undefined : statedFormat(backing, backingFormat),
    encrypted: false,
    externalData: false,
  };
}
