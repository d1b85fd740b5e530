/** Disk images of the fake host: small real files, so that paths, renames, removals and times are real. */
import { existsSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { DiskError } from '../core/errors.ts';
import type { ImageInfo } from '../snapshot/ports.ts';

/** What an image holds. */
export interface FakeImage {
  format: string;
  /** What the guest has written. */
  content: string;
  /** Internal snapshots: name to content. */
  tags: Record<string, string>;
  /** What tells tags of one name apart: name to a number that no other tag of any image has. */
  tagNumbers?: Record<string, number>;
  backing?: string;
  /** The backing file's format as this image states it; empty: not stated. Default: that file's own. */
  backingFormat?: string;
  /** What the guest has written into its raw disk: it looks like another image. */
  pretends?: FakeImage;
  /** In bytes. */
  virtualSize?: number;
}

const DEFAULT_SIZE = 1 << 20;
let tagNumber = 0;

/** Makes an image, or writes to it. Its time of modification always changes, however soon that is. */
export function writeImage(path: string, image: FakeImage): void {
  const before = existsSync(path) ? statSync(path).mtimeMs : 0;
  writeFileSync(path, JSON.stringify(image));
  const now = statSync(path).mtimeMs;
  if (now <= before) utimesSync(path, new Date(), new Date(Math.floor(before) + 1));
}

/** What an image is, and what is in it. */
export function readImage(path: string): FakeImage {
  return JSON.parse(readFileSync(path, 'utf8')) as FakeImage;
}

/** What the guest reads from a disk: an overlay that has nothing of its own shows its backing file. */
export function contentOf(path: string): string {
  const image = readImage(path);
  return image.content !== '' || image.backing === undefined ? image.content : contentOf(image.backing);
}

/** The image and all that it stands on. */
export function chainOf(path: string): readonly string[] {
  if (!existsSync(path) || !statSync(path).isFile()) return [path];
  const { backing } = readImage(path);
  return backing === undefined ? [path] : [path, ...chainOf(backing)];
}

/** Snapshots an image inside itself. */
export function tagImage(path: string, tag: string): void {
  const image = readImage(path);
  const tags = { ...image.tags, [tag]: image.content };
  writeImage(path, { ...image, tags, tagNumbers: { ...image.tagNumbers, [tag]: ++tagNumber } });
}

/** Removes an internal snapshot. @returns whether there was one */
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

/** Merges an overlay into the image below it. @returns that */
export function mergeImage(path: string): string | undefined {
  const { content, backing } = readImage(path);
  if (backing !== undefined && content !== '') writeImage(backing, { ...readImage(backing), content });
  return backing;
}

/** What an image is to whoever opens it with a format. @throws DiskError */
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
 * As `qemu-img info -f FORMAT` describes an image.
 * @throws DiskError
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
