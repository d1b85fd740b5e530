/**
 * Snapshots of raw images on a file system with reflinks (XFS, btrfs): a clone of the image, which takes no time and, at first,
 * no space. Whatever writes to the image, be it QEMU or a loop device below blkback, has its answered writes in the page
 * cache at least, and cloning a file writes that out first.
 *
 * A revert clones the snapshot and renames: IMAGE to IMAGE.before-MARK, IMAGE.fresh-MARK to IMAGE. Which of the names exist
 * says how far it got, and the inode number of the fresh file whether what is at IMAGE is its work.
 */
import { open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { DiskError, OutputError, RecoverError, XlsnapError } from '../../core/errors.ts';
import {
  exists,
  RESERVE_BYTES,
  removeIfPresent,
  removeReserved,
  reserveFile,
  statMaybe,
  syncDirectory,
  syncFile,
} from '../../core/files.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { Risk } from '../risks.ts';
import type { Clones } from './clones.ts';
import { storeProblems } from './find.ts';
import type {
  DiskPlace,
  DiskStorage,
  PreparedSnapshot,
  PrepareSteps,
  RevertSteps,
  WantedSnapshot,
} from './port.ts';

/** Length of `.before-MARK`. */
const MARK_BYTES = 31;
/** linux/limits.h */
const NAME_MAX = 255;
/** Leaves room for the longest that a revert adds. */
const MAX_IMAGE_NAME = NAME_MAX - MARK_BYTES;

export class ReflinkStorage implements DiskStorage {
  readonly name = 'reflink';
  readonly noun = 'clone';
  readonly #clones: Clones;

  constructor(clones: Clones) {
    this.#clones = clones;
  }

  async examine(vdev: string, place: DiskPlace): Promise<readonly Problem[] | undefined> {
    if (place.kind !== 'file') return undefined;
    return await this.#obstacles(vdev, place.path, dirname(place.path));
  }

  async plan({ path: image }: DiskPlace, { vdev, name, path, cow }: WantedSnapshot) {
    const snapshot = path ?? `${image}.${name}`;
    const disk: StorageDisk = { kind: 'storage', vdev, storage: this.name, image, snapshot };
    const directory = dirname(snapshot);
    const problems: Problem[] = [...storeProblems(vdev, cow)];
    if (Buffer.byteLength(basename(image)) > MAX_IMAGE_NAME) {
      problems.push({
        code: 'NAME_TOO_LONG',
        message: `disk ${vdev}: the name of its image ${image} is too long: a revert needs names with ${MARK_BYTES} bytes more`,
        hint: `give the image a name of at most ${MAX_IMAGE_NAME} bytes`,
      });
    }
    const nameLimit = NAME_MAX - RESERVE_BYTES;
    if (Buffer.byteLength(basename(snapshot)) > nameLimit) {
      problems.push({
        code: 'NAME_TOO_LONG',
        message: `disk ${vdev}: the name of its clone ${snapshot} is longer than ${nameLimit} bytes`,
        hint: 'use a shorter name',
      });
    } else if (await exists(snapshot)) {
      problems.push({
        code: 'FILE_EXISTS',
        message: `disk ${vdev}: ${snapshot} already exists`,
        hint: 'files are never replaced: choose another name or remove it',
      });
    } else if (!(await exists(directory))) {
      problems.push({
        code: 'NO_DIRECTORY',
        message: `disk ${vdev}: there is no directory ${directory} for its clone`,
        hint: 'create it first',
      });
    } else if (directory !== dirname(image))
      problems.push(...(await this.#obstacles(vdev, image, directory)));
    return { disk, problems };
  }

  async #obstacles(vdev: string, image: string, directory: string): Promise<readonly Problem[]> {
    const reason = await this.#clones.obstacle(image, directory);
    if (reason === undefined) return [];
    return [
      {
        code: 'NO_REFLINK',
        message: `disk ${vdev}: its raw image ${image} cannot be cloned: ${reason}`,
        hint: `keep the image on XFS or btrfs; or convert it to qcow2, and set backendtype=qdisk and format=qcow2 in its disk= line, then shut the domain down and start it again`,
      },
    ];
  }

  /** Notes the inode numbers of the clone to be and of the image. */
  async prepare({ image, snapshot }: StorageDisk, { mark, note }: PrepareSteps): Promise<void> {
    const { ino } = await stat(image);
    try {
      await reserveFile(snapshot, { mark, note: (inode) => note(`${inode} ${ino}`) });
    } catch (cause) {
      if (cause instanceof XlsnapError) throw cause;
      throw new OutputError('CLONE', `cannot create ${snapshot}`, { cause });
    }
  }

  async flush({ image }: StorageDisk): Promise<void> {
    await this.#clones.flush(image);
  }

  async take({ image, snapshot }: StorageDisk, made: string | undefined): Promise<void> {
    const { clone, image: from } = parseMade(made);
    await this.#clones.clone({ path: image, inode: from }, { path: snapshot, inode: clone });
  }

  async finish({ snapshot }: StorageDisk, made: string | undefined) {
    await syncClone(snapshot);
    await syncDirectory(dirname(snapshot));
    const { size, mtimeMs, ino } = await stat(snapshot);
    if (ino !== parseMade(made).clone) {
      throw new DiskError('CLONE_REPLACED', `another file has taken the place of ${snapshot}`);
    }
    return { identity: identityOf({ size, mtimeMs }), virtualSize: size };
  }

  async undo({ snapshot }: StorageDisk, { mark, made }: PreparedSnapshot): Promise<boolean> {
    return await removeReserved(snapshot, { mark, inode: parseMade(made).clone });
  }

  async check(
    { vdev, image, snapshot }: StorageDisk,
    then: { readonly identity: string } | undefined,
  ): Promise<{ readonly problems: readonly Problem[]; readonly risks: readonly Risk[] }> {
    const problems: Problem[] = [];
    const risks: Risk[] = [];
    const there = await statMaybe(snapshot);
    if (there === undefined) {
      problems.push({ code: 'NO_SNAPSHOT', message: `disk ${vdev}: its clone ${snapshot} no longer exists` });
    } else if (then !== undefined && identityOf(there) !== then.identity) {
      risks.push({
        risk: 'base-written',
        message: `disk ${vdev}: ${snapshot} was written to at ${there.mtime.toISOString()}, after the snapshot`,
        vdev,
      });
    }
    if ((await statMaybe(image)) === undefined) {
      problems.push({
        code: 'NO_IMAGE',
        message: `disk ${vdev}: its image ${image} no longer exists`,
        hint: `cp --reflink=always ${shellQuote(snapshot)} ${shellQuote(image)}, then run the same command again`,
      });
    } else if (there !== undefined) {
      problems.push(...(await this.#obstacles(vdev, snapshot, dirname(image))));
    }
    return { problems, risks };
  }

  async revert(
    { image, snapshot }: StorageDisk,
    { mark, checkFree }: RevertSteps,
    note: (made: string) => Promise<void>,
  ): Promise<void> {
    const { before, fresh } = namesOf(image, mark);
    const inode = await createEmpty(fresh);
    await this.#clones.clone({ path: snapshot }, { path: fresh, inode });
    await this.#clones.copyAttributes(image, fresh);
    await syncClone(fresh);
    await note(String(inode));
    await checkFree();
    await rename(image, before);
    await checkFree();
    await rename(fresh, image);
    await syncDirectory(dirname(image));
  }

  async undoRevert(
    { image }: StorageDisk,
    { mark, checkFree }: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean> {
    const { before, fresh } = namesOf(image, mark);
    const wasFresh = await removeIfPresent(fresh);
    const former = await exists(before);
    const there = await statMaybe(image);
    if (former && there !== undefined && String(there.ino) !== made) {
      throw new RecoverError('FILE_EXISTS', `${image} is not the file that the revert created`);
    }
    if (!former) return wasFresh;
    await checkFree();
    await beforeChange();
    await rename(before, image);
    await syncDirectory(dirname(image));
    return true;
  }

  async former({ image }: StorageDisk, mark: string): Promise<string | undefined> {
    const { before } = namesOf(image, mark);
    return (await exists(before)) ? before : undefined;
  }

  async forget({ image }: StorageDisk, mark: string): Promise<boolean> {
    return await removeIfPresent(namesOf(image, mark).before);
  }

  async find({ snapshot }: StorageDisk, identity: string | undefined): Promise<'there' | 'gone' | 'other'> {
    const there = await statMaybe(snapshot);
    if (there === undefined) return 'gone';
    return identity === undefined || identityOf(there) === identity ? 'there' : 'other';
  }

  async remove(disk: StorageDisk, identity: string | undefined): Promise<boolean> {
    if ((await this.find(disk, identity)) !== 'there') return false;
    await rm(disk.snapshot, { force: true });
    await syncDirectory(dirname(disk.snapshot));
    return true;
  }

  byHand({ image, snapshot }: StorageDisk, what: Parameters<DiskStorage['byHand']>[1], mark: string): string {
    const { before, fresh } = namesOf(image, mark);
    switch (what) {
      case 'undo':
      case 'remove':
        return `rm ${shellQuote(snapshot)}`;
      case 'undo-revert':
        return `rm -f ${shellQuote(fresh)}; mv ${shellQuote(before)} ${shellQuote(image)}, if ${shellQuote(before)} exists`;
      case 'forget':
        return `rm ${shellQuote(before)}`;
    }
  }
}

function namesOf(image: string, mark: string): { readonly before: string; readonly fresh: string } {
  return { before: `${image}.before-${mark}`, fresh: `${image}.fresh-${mark}` };
}

/** Creates an empty file whose name nobody else has. @returns its inode number */
async function createEmpty(path: string): Promise<number> {
  try {
    await using file = await open(path, 'wx', 0o600);
    return (await file.stat()).ino;
  } catch (cause) {
    throw new OutputError('CLONE', `cannot create ${path}`, { cause });
  }
}

/** Reads what `prepare` has noted. */
function parseMade(made: string | undefined): {
  readonly clone: number | undefined;
  readonly image: number | undefined;
} {
  const [clone, image] = (made ?? '').split(' ').map(Number);
  return { clone: made === undefined ? undefined : clone, image };
}

/** By its size and the time when it was last written to: a copy of it that has its time is as good. */
function identityOf({ size, mtimeMs }: { readonly size: number; readonly mtimeMs: number }): string {
  return `${size} ${mtimeMs}`;
}

async function syncClone(path: string): Promise<void> {
  try {
    await syncFile(path);
  } catch (cause) {
    throw new DiskError('CLONE_SYNC', `cannot write ${path} to its disk`, { cause });
  }
}
