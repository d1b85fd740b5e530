/** Finds the memory file that a live create can begin with, and proves that the dirty log says all that was written since. */
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { Bitmap } from '../../core/bitmap.ts';
import { InterruptedError, throwIfAborted, XlsnapError } from '../../core/errors.ts';
import { type Checksums, STRETCH } from '../../memfile/checksums.ts';
import { readManifest } from '../../memfile/manifest.ts';
import { manifestPathOf } from '../../memfile/names.ts';
import { hasPageData } from '../../savefmt/index.ts';
import type { FullCopy } from '../api.ts';
import { forEachPage } from '../memory/each-page.ts';
import type { AdoptedMemory } from '../memory/file-saver.ts';
import { Segment } from '../memory/segment.ts';
import type { DomainState, Guest, Host } from '../ports.ts';
import type { ClonedFile } from './clone-sums.ts';
import { type MemoryShape, readTrack, type Track } from './record.ts';

/** A memory file of the guest, which differs from its memory now only in what the log says. */
export interface Base extends AsyncDisposable {
  readonly track: Track;
  readonly file: FileHandle;
  readonly parent: ClonedFile;
  readonly memory: AdoptedMemory;
}

/** Returns what identifies all checksums of a file. */
export function sumsDigest({ algorithm, head, stretch, sums }: Checksums): string {
  return createHash('sha256').update(`${algorithm} ${head} ${stretch} ${sums}`).digest('hex');
}

/**
 * Looks for the file. Changes nothing.
 * @param prefixLength what the new file has before the pages, in bytes
 * @throws {InterruptedError} If the signal is aborted; also if the guest cannot be asked
 */
export async function findBase(
  host: Pick<Host, 'runDirectory'>,
  { domid, uuid }: Pick<DomainState, 'domid' | 'uuid'>,
  guest: Guest,
  prefixLength: number,
  signal: AbortSignal | undefined,
): Promise<Base | FullCopy> {
  const track = readTrack(host, uuid);
  if (track === undefined) return { full: 'NOT_TRACKED', message: 'the guest was not tracked' };
  if (track.domid !== domid) {
    return { full: 'OTHER_LIFE', message: 'the domain was started again since the last snapshot' };
  }
  if (!(await isUnbroken(guest, track.marks))) return brokenLog();
  throwIfAborted(signal);
  const opened = await openParent(track);
  if ('full' in opened) return opened;
  const { file, checksums } = opened;
  let keeps = false;
  try {
    const { shape, parent } = track;
    const segments = shape.prefix === prefixLength ? toSegments(shape, guest.p2mSize) : undefined;
    if (segments === undefined) {
      return {
        full: 'PARENT_LAYOUT',
        message:
          'the guest has given memory back, or its configuration has changed, so its pages need other places',
      };
    }
    keeps = true;
    const { path, bytes } = parent;
    const { start, end, zeroPages } = shape;
    return {
      track,
      file,
      parent: { fd: file.fd, path, bytes, checksums, end },
      memory: { segments, start, end, zeroPages },
      [Symbol.asyncDispose]: () => file.close(),
    };
  } finally {
    if (!keeps) await file.close();
  }
}

/**
 * Knows where all pages of the file are.
 * @returns undefined if there are pages beyond the p2m, or more than those pages between the records' beginning and end: entries
 * without data, or a page that has the places of those that the guest had given away
 */
function toSegments({ start, end, segments }: MemoryShape, p2mSize: number): Segment[] | undefined {
  const found: Segment[] = [];
  let at = start;
  for (const places of segments) {
    const segment = Segment.of(places, p2mSize);
    if (segment?.start !== at) return undefined;
    found.push(segment);
    at = segment.end;
  }
  return at === end ? found : undefined;
}

/** Says that another program has used the dirty log. */
export function brokenLog(): FullCopy {
  return {
    full: 'LOG_BROKEN',
    message: "the guest's dirty log was restarted or turned off since, as xl save and xl migrate do",
  };
}

/** Tells whether the log is on, and nobody has restarted or emptied it. */
export async function isUnbroken({ logMarks, p2mSize }: Guest, marks: readonly number[]): Promise<boolean> {
  if (logMarks === undefined || marks.length === 0) return false;
  const log = new Bitmap(p2mSize);
  await logMarks.peek(log);
  return marks.every((pfn) => log.has(pfn));
}

/** Opens the file that the track begins with, if it is still the same. */
async function openParent(
  track: Track,
): Promise<{ readonly file: FileHandle; readonly checksums: Checksums } | FullCopy> {
  const { path, dev, inode, bytes, mtimeMs, sums } = track.parent;
  let file: FileHandle;
  try {
    file = await open(path);
  } catch {
    return { full: 'PARENT_GONE', message: `${path} no longer exists, or cannot be read` };
  }
  let checksums: Checksums | undefined;
  let isSame = false;
  try {
    const now = await file.stat();
    isSame = now.dev === dev && now.ino === inode && now.size === bytes && now.mtimeMs === mtimeMs;
    checksums = isSame ? (await readManifest(manifestPathOf(path)))?.checksums : undefined;
  } catch (error) {
    if (error instanceof InterruptedError || !(error instanceof XlsnapError)) {
      await file.close();
      throw error;
    }
  }
  const { start } = track.shape;
  if (checksums !== undefined && sumsDigest(checksums) === sums && checksums.head === start) {
    if (checksums.stretch === STRETCH) return { file, checksums };
  }
  await file.close();
  return { full: 'PARENT_CHANGED', message: `${path} or its manifest has changed since` };
}

/**
 * Sets in `dirty` what needs no write to be different: pages that the guest has got or given away.
 * @param placed the pages that are in the file
 * @throws what `forEachPage` throws
 */
export async function addMoved(
  guest: Guest,
  placed: Bitmap,
  dirty: Bitmap,
  signal: AbortSignal | undefined,
): Promise<void> {
  const present = new Bitmap(placed.size);
  await forEachPage(guest, signal, (pfn, type) => {
    if (hasPageData(type)) present.set(pfn);
    else dirty.set(pfn);
    return undefined;
  });
  for (let i = 0; i < present.bytes.length; i++) {
    const moved = (present.bytes[i] ?? 0) ^ (placed.bytes[i] ?? 0);
    if (moved !== 0) dirty.bytes[i] = (dirty.bytes[i] ?? 0) | moved;
  }
}
