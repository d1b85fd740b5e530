/**
 * The port of storage that can snapshot a disk by itself, whoever serves it to the guest: a file system with reflinks, LVM. The
 * guest stays on its disk, and the snapshot is beside it. What QEMU can do inside and above its images is in `DeviceModel`.
 */
import type { StoreSize } from '../../config/config.ts';
import type { Problem } from '../../core/problem.ts';
import type { StorageDisk } from '../../memfile/manifest.ts';
import type { Risk } from '../risks.ts';
import type { Look } from './look.ts';

/**
 * What the bytes of a disk lie on, as the kernel says it, which is not always what the domain's configuration names. `path` is
 * absolute and without symbolic links; that of a device is the name under which its owner knows it, if there is one.
 */
export type DiskPlace =
  | { readonly kind: 'file'; readonly path: string }
  | {
      readonly kind: 'device';
      readonly path: string;
      readonly major: number;
      readonly minor: number;
    };

/** What is wanted of a snapshot of a disk. */
export interface WantedSnapshot {
  readonly vdev: string;
  /** The snapshot's name. */
  readonly name: string;
  /** Where the cfgfile wants it; `undefined`: where the storage keeps it. */
  readonly path: string | undefined;
  /** Room for what the guest overwrites, if the storage needs any; `undefined`: as much as it may ever need. */
  readonly cow?: StoreSize | undefined;
}

/** A plan of a snapshot. */
export interface PlannedSnapshot {
  readonly disk: StorageDisk;
  /** What prevents it: a path that it cannot use, for example. */
  readonly problems: readonly Problem[];
  /** What does not, but should be known. */
  readonly warnings?: readonly string[];
}

/** What a create gives to a storage. */
export interface PrepareSteps {
  /** Distinguishes what this create makes from everything else: `[0-9a-z-]`. */
  readonly mark: string;
  /**
   * Records, and waits until that is on the disk, what tells the snapshot from what other programs make. Call it before anything
   * gets a name that others may use too; `undo` gets what was recorded last.
   */
  readonly note: (made: string) => Promise<void>;
}

/** What `undo` knows of a create. */
export interface PreparedSnapshot {
  readonly mark: string;
  /** What was noted; `undefined` if `prepare` did not get that far. */
  readonly made: string | undefined;
}

/** What a revert gives to a storage. */
export interface RevertSteps {
  /** Distinguishes what this revert makes from everything else: `[0-9a-z-]`. */
  readonly mark: string;
  /**
   * Makes sure that no program has the disk open. Call it right before each step that changes the disk or its name.
   * @throws {RecoverError} If one has (`IMAGE_IN_USE`)
   */
  readonly checkFree: () => Promise<void>;
}

/**
 * A storage that snapshots disks. Only `take` is called while the guest is stopped. Each method that undoes may be called at any
 * time: twice, late, after something that never happened, and by another process than the one that did it.
 *
 * Methods throw XlsnapErrors, mostly DiskErrors.
 */
export interface DiskStorage {
  /** In manifests and journals: `reflink`. Stays the same for ever. */
  readonly name: string;
  /** What its snapshots are, for people: `clone`. */
  readonly noun: string;
  /**
   * Finds out whether a disk lies on it. Changes nothing.
   * @param look of this plan: what is slow can be asked once for all disks
   * @returns what prevents a snapshot there; `undefined` if the disk does not lie on this storage
   */
  examine(vdev: string, place: DiskPlace, look: Look): Promise<readonly Problem[] | undefined>;
  /** Plans a snapshot of a disk that nothing prevents. Changes nothing. */
  plan(place: DiskPlace, wanted: WantedSnapshot, look: Look): Promise<PlannedSnapshot>;
  /**
   * Says what prevents snapshots of several disks, or reverts to them, in one operation: room that they share. Also called for one.
   * Changes nothing. Absent: nothing does.
   */
  together?(
    disks: readonly StorageDisk[],
    what: 'create' | 'revert',
    look: Look,
  ): Promise<readonly Problem[]>;
  /**
   * Does everything slow: the guest runs, and if the create is live, its memory is copied only afterwards. What another program has
   * under a name that it wants stays, and is an error.
   */
  prepare(disk: StorageDisk, steps: PrepareSteps): Promise<void>;
  /**
   * Writes out what is cached of the disk, so that `take` has less to write. Called right before the suspend, and in a live create
   * also before the memory is copied, so that the second time is short.
   */
  flush(disk: StorageDisk): Promise<void>;
  /**
   * Takes the snapshot. The guest is suspended, and nothing else writes to the disk.
   * @param made what `prepare` has noted
   */
  take(disk: StorageDisk, made: string | undefined): Promise<void>;
  /**
   * Completes the snapshot, the guest running again, and makes it durable.
   * @param made what `prepare` has noted
   * @returns what it is known by from now on, for the manifest: `check` and `remove` compare it
   */
  finish(
    disk: StorageDisk,
    made: string | undefined,
  ): Promise<{ readonly identity: string; readonly virtualSize: number }>;
  /**
   * Removes what `prepare` and `take` have made, and nothing that another program has put in its place.
   * @returns whether there was anything
   */
  undo(disk: StorageDisk, prepared: PreparedSnapshot): Promise<boolean>;
  /**
   * Says what prevents a revert to the snapshot, or makes it risky. Changes nothing.
   * @param then what the manifest has; `undefined` if it has nothing
   */
  check(
    disk: StorageDisk,
    then: { readonly identity: string; readonly virtualSize: number } | undefined,
  ): Promise<{ readonly problems: readonly Problem[]; readonly risks: readonly Risk[] }>;
  /**
   * Gives the disk the content of the snapshot, which stays. The former content is kept until `forget`. The domain does not exist.
   * @param note records, and waits until that is on the disk, what is about to take the disk's place; `undoRevert` gets it
   */
  revert(disk: StorageDisk, steps: RevertSteps, note: (made: string) => Promise<void>): Promise<void>;
  /**
   * Puts the former content back, and removes what else the revert has made.
   * @param made what was noted; `undefined` if nothing was
   * @param beforeChange is called before the former content is put back: what the disk holds now is then lost
   * @returns whether there was anything to do
   * @throws {RecoverError} If something else has taken the disk's place in the meantime
   */
  undoRevert(
    disk: StorageDisk,
    steps: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean>;
  /** What exists of the former content: a path; `undefined` if nothing does. */
  former(disk: StorageDisk, mark: string): Promise<string | undefined>;
  /** Removes the former content. @returns whether there was any */
  forget(disk: StorageDisk, mark: string): Promise<boolean>;
  /**
   * Tells whether the snapshot is there.
   * @returns `other`: something else has taken its place
   */
  find(disk: StorageDisk, identity: string | undefined): Promise<'there' | 'gone' | 'other'>;
  /** Removes the snapshot, if it is there. @returns whether it was */
  remove(disk: StorageDisk, identity: string | undefined): Promise<boolean>;
  /** What to do by hand, for a shell. */
  byHand(disk: StorageDisk, what: 'undo' | 'undo-revert' | 'forget' | 'remove', mark: string): string;
}
