/**
 * How the disks of a snapshot are put back, and put back again as they were before: one way for each kind, and nothing else in a
 * revert or its recovery knows kinds. What `DiskStorage` says about `revert`, `undoRevert`, `former` and `forget` holds for all.
 */
import type { Domid } from '../../core/brand.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { RevertDisk } from '../api.ts';
import { refuseUsed } from '../images/chain.ts';
import type { Phases } from '../phases.ts';
import type { Host } from '../ports.ts';
import { storageOf } from '../storage/find.ts';
import type { DiskStorage, RevertSteps } from '../storage/port.ts';
import type { KeptDisk } from './kept.ts';
import { OverlayWay } from './overlay-way.ts';
import { TagWay } from './tag-way.ts';

/** Puts one disk back. */
export interface Way {
  readonly disk: RevertDisk;
  /** The image that it writes to or replaces. */
  readonly image: string;
  /** Gives the disk the content of the snapshot; the former content is kept until `forget`. */
  revert(steps: RevertSteps, note: (made: string) => Promise<void>): Promise<void>;
  /**
   * Puts the former content back.
   * @param made what was noted; `undefined` if nothing was
   * @returns whether there was anything to do
   */
  undoRevert(
    steps: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean>;
  /** What exists of the former content; `undefined` if nothing does. */
  former(mark: string): Promise<FormerDisk | undefined>;
  /**
   * Removes the former content.
   * @param domid of the restored domain, whose QEMU may have to do it
   * @returns whether there was any
   */
  forget(mark: string, domid: Domid | undefined): Promise<boolean>;
  /** What to do by hand, for a shell; `undefined`: nothing is to be done. */
  byHand(what: 'undo-revert' | 'forget', mark: string): string | undefined;
}

/** A disk's former content. */
export interface FormerDisk {
  readonly kept: KeptDisk;
  /** For people: a path, `snapshot TAG of IMAGE`. */
  readonly where: string;
  /** Past participle, for when it is gone. */
  readonly removed: string;
  /** Whether it may stay when the revert is done (`--keep`). */
  readonly mayStay: boolean;
}

/** The way of a disk. */
export function wayOf(host: Host, disk: RevertDisk): Way {
  switch (disk.kind) {
    case 'internal':
      return new TagWay(host, disk);
    case 'external':
      return new OverlayWay(host, disk);
    case 'storage':
      return new StoredWay(storageOf(host, disk), disk);
  }
}

/**
 * What a way needs for its steps.
 * @param phases if it is to end when the revert is interrupted
 */
export function stepsOf(
  host: Host,
  { image }: Pick<Way, 'image'>,
  mark: string,
  phases?: Phases,
): RevertSteps {
  const checkFree = async (): Promise<void> => {
    await refuseUsed(host, image);
    // A call that was given up continues here if what it waited for ends after all.
    phases?.checkpoint();
  };
  return { mark, checkFree };
}

/** By the disk's own storage. */
class StoredWay implements Way {
  readonly disk: Extract<RevertDisk, { kind: 'storage' }>;
  readonly image: string;
  readonly #storage: DiskStorage;

  constructor(storage: DiskStorage, disk: Extract<RevertDisk, { kind: 'storage' }>) {
    this.#storage = storage;
    this.disk = disk;
    this.image = disk.image;
  }

  async revert(steps: RevertSteps, note: (made: string) => Promise<void>): Promise<void> {
    await this.#storage.revert(this.disk, steps, note);
  }

  async undoRevert(
    steps: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean> {
    return await this.#storage.undoRevert(this.disk, steps, made, beforeChange);
  }

  async former(mark: string): Promise<FormerDisk | undefined> {
    const path = await this.#storage.former(this.disk, mark);
    if (path === undefined) return undefined;
    const kept = { kind: 'storage' as const, vdev: this.disk.vdev, path };
    return { kept, where: path, removed: `removed ${path}`, mayStay: true };
  }

  async forget(mark: string): Promise<boolean> {
    return await this.#storage.forget(this.disk, mark);
  }

  byHand(what: 'undo-revert' | 'forget', mark: string): string {
    return this.#storage.byHand(this.disk, what, mark);
  }
}

/** Says how to give up the former content of a disk. @param journal what stays if there is none */
export function giveUpByHand(way: Way, mark: string, journal: string): string {
  return way.byHand('forget', mark) ?? `rm ${shellQuote(journal)}`;
}
