/** Finds journals of killed or running reverts that concern a domain or its images. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoCode } from '../../core/errors.ts';
import type { SnapshotDisk } from '../../memfile/manifest.ts';
import type { RevertDisk } from '../api.ts';
import { domainKeys } from '../domain-lock.ts';
import { truePath } from '../images/chain.ts';
import { JournalError } from '../journal/file.ts';
import { readJournal } from '../read-journal.ts';
import { REVERT_JOURNAL, type RevertHead } from './journal.ts';

/** The domain and the images that an operation is about. */
export interface Subject {
  /** The domain's names and uuids. */
  readonly keys: readonly string[];
  /** Paths of its images. */
  readonly images: readonly string[];
}

/** The journal of a revert that was killed, or is still running. */
export interface RelatedRevert {
  readonly path: string;
  /** What its process locks, or locked. */
  readonly keys: readonly string[];
}

/** What the revert has locked that wrote a journal: the domain of the snapshot, and the one that it has destroyed. */
export function revertKeys({ uuid, domain, destroys }: RevertHead): readonly string[] {
  return [uuid, domain, ...domainKeys(destroys)];
}

/**
 * Journals of reverts that concern a domain or one of its images, whatever uuid the domain had then: without `uuid=`
 * in its file it gets another one with each start. One that cannot be read, or trusted, counts by its name; whoever reads it
 * reports what is wrong with it.
 * @param directory where the host has them
 * @param warn is called with a text for each other journal that cannot be read
 */
export async function relatedReverts(
  directory: string,
  { keys, images }: Subject,
  warn: (message: string) => void,
): Promise<readonly RelatedRevert[]> {
  const wanted = new Set(await Promise.all(images.map(truePath)));
  const related: RelatedRevert[] = [];
  for (const name of await journalNames(directory)) {
    const path = join(directory, name);
    const uuid = name.slice(0, -REVERT_JOURNAL.length);
    const own = keys.includes(uuid);
    const head = await readHead(path, own ? () => {} : warn);
    if (head === undefined) {
      if (own) related.push({ path, keys: [uuid] });
      continue;
    }
    const locked = revertKeys(head);
    if (locked.some((key) => keys.includes(key)) || (await namesOne(head.disks, wanted))) {
      related.push({ path, keys: locked });
    }
  }
  return related;
}

async function journalNames(directory: string): Promise<readonly string[]> {
  const names = await readdir(directory).catch((error: unknown) => {
    if (['ENOENT', 'ENOTDIR'].includes(errnoCode(error) ?? '')) return [];
    throw error;
  });
  return names.filter((name) => name.endsWith(REVERT_JOURNAL)).sort();
}

/** @returns `undefined` when it has none yet, or cannot be read */
async function readHead(path: string, warn: (message: string) => void): Promise<RevertHead | undefined> {
  try {
    const found = await readJournal(path);
    return found?.kind === 'revert' ? found.head : undefined;
  } catch (error) {
    if (!(error instanceof JournalError)) throw error;
    // Most likely another domain's: it must not prevent snapshots of this one.
    warn(`${error.message}; it may belong to a revert of this domain`);
    return undefined;
  }
}

async function namesOne(disks: readonly RevertDisk[], wanted: ReadonlySet<string>): Promise<boolean> {
  for (const image of imagesOf(disks)) if (wanted.has(await truePath(image))) return true;
  return false;
}

/** The images that disks of a snapshot name. */
export function imagesOf(disks: readonly (SnapshotDisk | RevertDisk)[]): readonly string[] {
  return disks.flatMap(imagesOfOne);
}

function imagesOfOne(disk: SnapshotDisk | RevertDisk): readonly string[] {
  switch (disk.kind) {
    case 'internal':
      return [disk.image];
    case 'external':
      return [disk.base, disk.overlay];
    case 'storage':
      return [disk.image, disk.snapshot];
  }
}
