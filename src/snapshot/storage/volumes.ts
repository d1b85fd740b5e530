/** The port of a volume manager whose volumes can be snapshots of each other: LVM. */

/** A logical volume. */
export interface Volume {
  readonly group: string;
  readonly name: string;
  /** Stays the same when the volume is renamed; no other volume ever has it. */
  readonly uuid: string;
  /** In bytes. */
  readonly size: number;
  /**
   * `thin`: in a pool; `linear`: plain, perhaps striped; `snapshot`: a thick snapshot of another volume; `other`: RAID, a cache, VDO,
   * a pool, a part of another volume.
   */
  readonly kind: 'thin' | 'linear' | 'snapshot' | 'other';
  /** In LVM's words, for messages: `thin,sparse`, `raid,raid1`. */
  readonly layout: string;
  /** Has a device. */
  readonly active: boolean;
  /** A program, or a kernel's backend, has it open. */
  readonly open: boolean;
  readonly merging: boolean;
  readonly tags: readonly string[];
  /** The volume that it is, or was made as, a snapshot of; `undefined` if there is none, or none any more. */
  readonly originUuid: string | undefined;
  /** The pool of a thin one. */
  readonly pool: string | undefined;
  /** How full the store of a thick snapshot is, in per cent; 0 for others. */
  readonly usedPercent: number;
  /** Whether a thick snapshot is lost, since its store was full. */
  readonly invalid: boolean;
}

/** A pool of thin volumes. */
export interface Pool {
  /** How full it is, in per cent. */
  readonly dataPercent: number;
  readonly metadataPercent: number;
  /** What is wrong with it, in LVM's words; empty if nothing is. */
  readonly health: string;
}

/** All volumes, at one time. */
export interface VolumeList {
  readonly volumes: readonly Volume[];
  /** The state of each pool; its name is `GROUP/NAME`. */
  readonly pools: ReadonlyMap<string, Pool>;
  /** Bytes that each group with a volume has free. */
  readonly free: ReadonlyMap<string, number>;
}

/** Each method that changes something takes effect whole or not at all, as one commit of the group's metadata. */
export interface Volumes {
  /** The uuid of the volume whose device that is, by the kernel alone; `undefined` if it is no volume's. */
  uuidAt(device: { readonly major: number; readonly minor: number }): Promise<string | undefined>;
  /**
   * Lists everything, which takes no longer than to look for one volume.
   * @throws {EnvironmentError} If the volume manager is missing, or does not answer
   */
  list(): Promise<VolumeList>;
  byName(group: string, name: string): Promise<Volume | undefined>;
  /** Why volumes cannot be created here now, as a clause; `undefined` if they can. */
  obstacle(): Promise<string | undefined>;
  /** Writes what is cached of a volume to its disk: then a snapshot of it is quick. */
  flush(volume: Pick<Volume, 'group' | 'name'>): Promise<void>;
  /**
   * Creates a snapshot of a thin volume, in its pool. It is not activated.
   * @param options `keep`: a snapshot to be kept: it has the tag, does not become active at the next boot, and the guest is stopped
   * until it is taken
   * @throws {DiskError} If it cannot be created
   */
  snapshotThin(
    group: string,
    origin: string,
    name: string,
    options: { readonly keep: boolean },
  ): Promise<void>;
  /**
   * Creates a plain volume that is to become the store of a thick snapshot: not active, with the tag, and its beginning wiped.
   * @param bytes is rounded up
   * @throws {DiskError} If it cannot be created
   */
  createStore(group: string, name: string, bytes: number): Promise<void>;
  /**
   * Makes a store a snapshot of a plain volume as that is now, active. Does not wait until udev has made its device's name.
   * @param options `keep`: a snapshot to be kept: the guest is stopped until it is taken
   * @throws {DiskError} If that is not possible
   */
  snapshotThick(
    group: string,
    origin: string,
    store: string,
    options: { readonly keep: boolean },
  ): Promise<void>;
  /** Waits until udev has made all devices' names. */
  settle(): Promise<void>;
  /**
   * Makes a volume that nobody has open equal to a thick snapshot of it, and waits until that is on the disk. May be repeated.
   * @throws {DiskError} If that is not possible; the volume may be equal in part
   */
  writeBack(group: string, snapshot: string, origin: string): Promise<void>;
  /**
   * Renames a volume, which must not be active.
   * @throws {DiskError} If that is not possible
   */
  rename(group: string, from: string, to: string): Promise<void>;
  /** Makes a volume's device appear. @throws {DiskError} If that is not possible */
  activate(group: string, name: string): Promise<void>;
  /** Makes it disappear. @throws {DiskError} If that is not possible: someone has it open, for example */
  deactivate(group: string, name: string): Promise<void>;
  /**
   * Removes a volume, active or not; another one that has its name by now stays.
   * @throws {DiskError} If that is not possible
   */
  remove(volume: Pick<Volume, 'group' | 'name' | 'uuid'>): Promise<void>;
}

/** The tag of every snapshot that xlsnap keeps. */
export const VOLUME_TAG = 'xlsnap';
