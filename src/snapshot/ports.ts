/**
 * Everything that the operations on snapshots need from the outside world. src/toolstack implements these ports on Xen, QEMU
 * and xl; tests and custom toolstacks bring their own.
 *
 * Unless a method says otherwise, each rejects with an XlsnapError, takes effect whole or not at all, and may be
 * called in any state.
 */

import type { Bitmap } from '../core/bitmap.ts';
import type { Domid } from '../core/brand.ts';
import type { Extents } from '../core/extents.ts';
import type { Problem } from '../core/problem.ts';
import type { GuestType, XenVersion } from '../core/xen.ts';
import type { DiskImage, LibxlConfig } from '../memfile/libxl-config.ts';
import type { TagIdentity, UnknownDrive } from '../memfile/manifest.ts';
import type { MakeXxh3 } from '../memfile/summer.ts';
import type { LibxcStateRecord } from '../savefmt/index.ts';
import type { DiskPlace, DiskStorage } from './storage/port.ts';
import type { MemoryClones } from './track/clones.ts';

/** A domain as the hypervisor sees it (xen_domctl_getdomaininfo) and xenstore names it. */
export interface DomainState {
  readonly domid: Domid;
  /** Lower case, with dashes. */
  readonly uuid: string;
  readonly name: string;
  readonly type: GuestType;
  /** Paused by its owner (XEN_DOMINF_paused). */
  readonly paused: boolean;
  readonly dying: boolean;
  /** Set when the domain has shut down, crashed, or is suspended. */
  readonly shutdown:
    | 'poweroff'
    | 'reboot'
    | 'suspend'
    | 'crash'
    | 'watchdog'
    | 'soft_reset'
    | 'other'
    | undefined;
  /** Memory it has now, bytes. */
  readonly memoryBytes: number;
}

/** The part of a domain's state that Xen alone knows. */
export type DomainVitals = Pick<DomainState, 'domid' | 'uuid' | 'paused' | 'dying' | 'shutdown'>;

/** The hypervisor: libxenctrl, libxenforeignmemory, and the part of xenstore that suspending needs. */
export interface Hypervisor {
  version(): Promise<XenVersion>;
  /** `undefined` when there is no such domain. */
  domainState(domid: Domid): Promise<DomainState | undefined>;
  /**
   * The same from Xen alone, for whatever lets a guest run again: it needs neither xenstore nor any other daemon.
   * `undefined` when there is no such domain.
   */
  vitals(domid: Domid): Promise<DomainVitals | undefined>;
  pause(domid: Domid): Promise<void>;
  unpause(domid: Domid): Promise<void>;
  /**
   * Asks the guest to suspend and waits until it has (shutdown reason `suspend`). The domain must not be paused.
   * When this rejects, the request has been undone and the guest keeps running.
   * @throws {SuspendError} If it takes too long, or the guest shut down for another reason
   */
  suspend(domid: Domid, options: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<void>;
  /**
   * Withdraws a request to suspend, made by a process that has exited or a call that does not end. Where the guest
   * has acknowledged it, waits until the guest has suspended, but does not resume it.
   */
  withdrawSuspend(domid: Domid): Promise<void>;
  /**
   * Resumes a suspended domain as after a cancelled suspend: same domid, same devices. By Xen alone; `announceResume` comes
   * when it runs.
   */
  resume(domid: Domid): Promise<void>;
  /**
   * Informs xenstored that the domain was resumed; otherwise it does not announce the domain's next shutdown, and `xl` waits
   * for ever. May be called any number of times, in any state.
   */
  announceResume(domid: Domid): Promise<void>;
  /** Memory that a domain to come can have now, bytes. */
  freeMemory(): Promise<number>;
  /** Why a guest's memory cannot be read without doing it harm; `undefined` when it can. */
  memoryObstacle(domid: Domid, type: GuestType): Promise<Problem | undefined>;
  /**
   * Whether a paused domain's guest has come as far as an operating system. One that has never run (`xl create -p`) has not:
   * to suspend it would have to boot.
   */
  hasBooted(domid: Domid, type: GuestType): Promise<boolean>;
  /** Why this host cannot copy the memory of guests of that type while they run; `undefined` when it can. */
  liveObstacle(type: GuestType): Promise<Problem | undefined>;
  /** Log-dirty mode off, for a guest that is not opened. May be called when it is off. */
  stopDirtyLog(domid: Domid): Promise<void>;
  /** Opens the guest for reading its memory and state. */
  openGuest(domid: Domid): Promise<Guest>;
}

/** How `packPages` writes. */
export interface PackOptions {
  /** Whether pages of zeros are left out. Default: true. */
  readonly sparse?: boolean;
  readonly sum?: boolean;
  readonly directFd?: number | undefined;
  /** Asked before each write, when the one before it has ended; if it rejects, nothing is written. */
  readonly mayWrite?: (() => Promise<void>) | undefined;
}

/** What `packPages` has copied. */
export interface PackedPages {
  /**
   * The kind of each page (`PAGE_KIND`): its data was copied, it is all zeros, or it cannot be had: the guest has no such page
   * (any more), or, of a running PV guest, it is a page table that is being changed.
   */
  readonly kinds: Uint8Array;
  /**
   * Resolves when the copy has been written, and rejects with an OutputError if that fails. The guest may run again before.
   *
   * Its value is the XXH3 (64 bits, as 16 hexadecimal digits) of the bytes that were written, without the zeros at their end: exactly
   * of those, even if the guest's memory changes in between. Undefined where it was not wanted, or costs too much: then the file is
   * read again.
   */
  readonly written: Promise<string | undefined>;
}

/**
 * Marks in a dirty log: bits of pages that the guest does not write. Another program that restarts the log, or takes what is in
 * it, takes them away, and nothing brings them back.
 */
export interface LogMarks {
  /**
   * Sets them, for as long as the log is on.
   * @returns the pfns; empty if the guest has no such pages
   */
  set(): Promise<readonly number[]>;
  /** Sets in `pages`, a bitmap of `p2mSize` bits, what is in the log, and leaves the log as it is. Nothing if it is off. */
  peek(pages: Bitmap): Promise<void>;
}

/**
 * One guest, opened. Its memory never shows outside of the methods. What differs between types of guests is behind them:
 * a PV guest's pfns stand for mfns that it may change, and its page tables go into a file with pfns in them.
 */
export interface Guest extends AsyncDisposable {
  /** In the stream's domain header; a PVH guest's is `hvm`. */
  readonly streamType: 'pv' | 'hvm';
  /** Number of pfns in its p2m, one more than the highest. Only `settle` may change it. */
  readonly p2mSize: number;
  /** Most pages in one call of `packPages` or `readPages`; at least 1022. */
  readonly maxBatch: number;
  /**
   * The page type of each pfn, 0 … 15 as in PAGE_DATA's bits 60-63 (XEN_DOMCTL_PFINFO_*).
   * Any number of pfns; the implementation asks in chunks that Xen takes.
   */
  pageTypes(pfns: Uint32Array): Promise<Uint8Array>;
  /** The same for `count` pfns from `first` on. */
  pageTypesFrom(first: number, count: number): Promise<Uint8Array>;
  /** Pages that Xen says the guest has, with a pfn or without. Absent where its p2m has no large empty parts. */
  pageCount?(): Promise<number>;
  /**
   * Copies what makes one stretch of the file `fd`, from `position` on, and starts to write it: what `makeHead` gives, then the
   * pages that have data, back to back in the order of `pfns`. Pages must have types that carry data. Several calls may run at once.
   * @param pfns at most `maxBatch`
   * @param makeHead is given the kind of each page; its result has at most 8192 bytes, or 16 and 8 for each page if that is more
   * @param options `sum`: whether to sum up what is written. `directFd`: the same file, opened with O_DIRECT, which may be used
   * instead where position, length and address are multiples of 4096
   * @returns when the pages are copied; `written` says when the file has them
   */
  packPages(
    fd: number,
    pfns: Uint32Array,
    position: number,
    makeHead: (kinds: Uint8Array) => Uint8Array,
    options?: PackOptions,
  ): Promise<PackedPages>;
  /**
   * Copies pages into `into`, page i to byte 4096 * i. Pages must have types that carry data.
   * @param pfns at most `maxBatch`
   * @returns the kind of each page, which is `data` or `unmapped`; of those there is nothing in `into`
   */
  readPages(pfns: Uint32Array, into: Uint8Array): Promise<Uint8Array>;
  /** Turns log-dirty mode on: from now on Xen tracks which pages are written. If it is on already, it restarts. */
  startDirtyLog(): Promise<void>;
  /**
   * Sets in `pages`, a bitmap of `p2mSize` bits, the pfns written since the last call, or since the start; Xen forgets them
   * then. Bits that are set stay.
   * @param options `final`: the guest is suspended: pages that Xen's own emulation holds mapped for writing count too
   * @returns whether the log was complete. False: another program has restarted it, some of what was written is unknown,
   * and all bits are set
   * @throws {DomainError} If it is final, instead (`DIRTY_LOG_LOST`)
   */
  takeDirty(pages: Bitmap, options: { final: boolean }): Promise<boolean>;
  /** Log-dirty mode off. May be called when it is off. */
  stopDirtyLog(): Promise<void>;
  /** What shows that nobody else has emptied or restarted the dirty log. Absent where nothing can. */
  readonly logMarks?: LogMarks | undefined;
  /**
   * Looks again for what the guest may have moved while it ran. Call it once the guest is suspended, before the last pages are read.
   * @param options `mayGrow`: no page has been read yet, so a p2m that has grown since is taken as it is now
   * @throws {DomainError} If what is written already cannot be of the same guest
   */
  settle(options: { mayGrow: boolean }): Promise<void>;
  /** What never changes while the guest lives: the records before STATIC_DATA_END. */
  staticRecords(): Promise<readonly LibxcStateRecord[]>;
  /** What a restore must know before the first page; the records behind STATIC_DATA_END. Always of one length. */
  startRecords(): Promise<readonly LibxcStateRecord[]>;
  /** The suspended guest's state: the records behind its pages, in the order of libxc. */
  stateRecords(): Promise<readonly LibxcStateRecord[]>;
}

/** A disk of the domain. `internal` and `external` list what prevents each kind of snapshot by QEMU. */
export interface DomainDisk {
  /** `xvda`, `hda`, … as in the domain's configuration. */
  readonly vdev: string;
  /** Virtual device number, `xvda` is 51712. */
  readonly devid: number;
  readonly writable: boolean;
  readonly cdrom: boolean;
  /** Absolute path of the image in use now; the overlay's after an external snapshot. Absent for an empty drive. */
  readonly path: string | undefined;
  /** Format in QEMU's words: `qcow2`, `raw`, … */
  readonly format: string | undefined;
  /** Why an internal snapshot cannot be taken; empty when it can. */
  readonly internal: readonly Problem[];
  /** Why an external snapshot cannot be taken; empty when it can. */
  readonly external: readonly Problem[];
  /**
   * What the guest's data lies on byte for byte, for a `DiskStorage` to snapshot. Absent when it is in another format than raw,
   * nobody in this domain serves it, or nothing is known.
   */
  readonly place?: DiskPlace | undefined;
}

/** What a toolstack knows about a domain's being snapshotted, beside its disks. */
export interface CreateFindings {
  readonly obstacles: readonly Problem[];
  readonly unknownDrives: readonly UnknownDrive[];
  /** Version of its QEMU, if it has one. */
  readonly qemu: string | undefined;
}

/** What a restore will be about. */
export interface RestoreFacts {
  /** The configuration to restore with. */
  readonly config: LibxlConfig;
  /** Whether that is another than the one in the memory file. */
  readonly replacesConfig: boolean;
  /** Pages that the memory file gives the guest. */
  readonly pages: number;
  /** Vdevs of the disks whose images have been looked at, or are yet to be made. */
  readonly disks: readonly string[];
  /** The domain that goes before the restore, with its configuration now. */
  readonly replaced: { readonly domain: DomainState; readonly config: LibxlConfig | undefined } | undefined;
}

/** What a toolstack knows about a restore, before anything is destroyed for it. */
export interface RestoreFindings {
  /** What it would fail for. */
  readonly obstacles: readonly Problem[];
  /** Why it may fail for want of memory, if it may. */
  readonly memoryRisk: string | undefined;
  /** What does not hinder the restore. */
  readonly warnings: readonly string[];
  /** Versions of the QEMUs that it may start; empty when none is known, or none is needed. */
  readonly qemus: readonly string[];
}

/** One disk's part of the transaction. */
export type DiskAction =
  | { readonly kind: 'internal'; readonly vdev: string; readonly tag: string }
  | {
      readonly kind: 'external';
      readonly vdev: string;
      readonly path: string;
      /** Inode number of an empty file that is there for QEMU to write to; any other file is refused. */
      readonly reserved?: number | undefined;
    };

/** An internal snapshot in an image: and what distinguishes it from another one of the same name. */
export interface ImageTag extends TagIdentity {
  readonly name: string;
  /** Size of the machine's state in it, in bytes; 0 for one of the disk alone. */
  readonly vmStateSize: number;
}

/** What an image file is, by `qemu-img info`. */
export interface ImageInfo {
  readonly path: string;
  readonly format: string;
  /** In bytes. */
  readonly virtualSize: number;
  /** Its internal snapshots. */
  readonly snapshots: readonly ImageTag[];
  /** Their names. */
  readonly tags: readonly string[];
  /** Absolute path of its backing file; a raw image has none. */
  readonly backing: string | undefined;
  /** The backing file's format, if the image states it. */
  readonly backingFormat: string | undefined;
  readonly encrypted: boolean;
  /** Whether the guest's data is in a file of its own (qcow2's `data_file`). */
  readonly externalData: boolean;
}

/** An image that someone has open. */
export interface ImageUse {
  /** Absolute path, as its user names it. */
  readonly path: string;
  /** The format that its user states, in QEMU's words; `undefined` when that is not known. */
  readonly format: string | undefined;
  /** The domain whose disk it is; `undefined` for another user, a loop device for example. */
  readonly domid: number | undefined;
  /** For people: `domain web1 (domid 6)`, `/dev/loop0`. */
  readonly holder: string;
  /** For people, what makes it let go of the image: `unmount it (umount /mnt)`. Default: `shut it down`. */
  readonly release?: string;
  readonly writable: boolean;
}

/** The device model of one domain: its QEMU, by QMP. Absent when the domain has none. */
export interface DeviceModel extends AsyncDisposable {
  /** The image that a disk had when this was opened; `undefined` when it has no such disk, or none in it. */
  imageOf(vdev: string): string | undefined;
  /** Stops devices' work (QMP `stop`); only HVM has a machine to stop. */
  stop(): Promise<void>;
  cont(): Promise<void>;
  /**
   * Makes QEMU report the guest pages that it writes itself to Xen's dirty log, or ends that. HVM only. Turning it on
   * twice does no harm. Turning it off while it is off aborts QEMU (memory_global_dirty_log_do_stop in its
   * system/memory.c), and with it the guest: send `true` right before every `false`.
   * @throws {QmpConnectError} If its QEMU has exited (`QEMU_DIED`)
   */
  logDirty(on: boolean): Promise<void>;
  /** The machine's state without its memory and disks: content of an EMULATOR_CONTEXT record. HVM only. */
  saveState(): Promise<Uint8Array>;
  /**
   * Does what must precede `snapshotDisks` and may take long: closes what an earlier merge has left open of a disk. Called while
   * the guest runs. Default: nothing.
   */
  prepareSnapshot?(vdev: string): Promise<void>;
  /**
   * Takes all snapshots in one transaction: all or none. An overlay that is not `reserved` is created.
   * @throws {DiskError} If it fails: no disk has changed then, except with `DISKS_UNKNOWN`, where QEMU broke off;
   * `undoSnapshots` puts it right
   */
  snapshotDisks(actions: readonly DiskAction[]): Promise<void>;
  /**
   * Puts the disks back as they were before `snapshotDisks` took these actions: deletes the tags; merges each overlay
   * into its base, which the domain continues on, and removes the overlay. The domain may run in the meantime. An action that
   * was not taken, or has been undone, is left out.
   * @returns those that there was something to undo of
   */
  undoSnapshots(actions: readonly DiskAction[]): Promise<readonly DiskAction[]>;
  /**
   * Merges the overlay that a disk is on into its base, on which the domain continues. The domain may run in the meantime.
   * The overlay's file stays, and the domain does not have it open any more. What an earlier call had begun, whose process was
   * killed, is continued.
   * @returns false if the disk is not on that overlay: then nothing was done, but closing one that an earlier call has merged
   * @throws {DiskError} If the overlay is on another image than `base` (`OTHER_IMAGE`), or QEMU fails; the disk is still on
   * the overlay then, which has all data, and the base has a part of it. So it is after an interruption
   */
  mergeOverlay(merge: OverlayMerge, options?: MergeOptions): Promise<boolean>;
}

/** An overlay that is the top image of a disk. */
export interface OverlayMerge {
  readonly vdev: string;
  readonly overlay: string;
  readonly base: string;
}

export interface MergeOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
  /** Awaited when all is copied, right before the domain continues on the base. If it rejects, it stays on the overlay. */
  readonly beforeSwitch?: (() => Promise<void>) | undefined;
  /** Receives what went wrong once the domain was on the base. */
  readonly onWarning?: ((text: string) => void) | undefined;
}

/** Receives how many bytes of how many are done; the total may grow. */
export type OnProgress = (done: number, total: number) => void;

/** Which programs and services run domains. The shipped one is `xl`. */
export interface Toolstack {
  /**
   * Domid of a domain as a user gives it: by name, or by number, which is a domid whatever the domains are called, as xl
   * has it. `undefined` when there is none.
   */
  findDomain(nameOrDomid: string): Promise<Domid | undefined>;
  /** Domid of the domain that has exactly this name, which may consist of digits. `undefined` when there is none. */
  findByName(name: string): Promise<Domid | undefined>;
  /** Names of the domains that run, for suggestions. Default: none. */
  domainNames?(): Promise<readonly string[]>;
  /** Domid of the domain with this uuid, lower case, with dashes. `undefined` when there is none. */
  findByUuid(uuid: string): Promise<Domid | undefined>;
  /**
   * Keeps other operations away from a domain until the lock is disposed of, or this process ends.
   * @param keys what the domain is known by: its name, its uuid (lower case, with dashes), a former uuid. Two calls that
   * have a key in common exclude each other. All of them are taken, or none. The domain need not run.
   * @param options `what` is done under it, which others see; `timeoutMs`: how long to wait for another to finish.
   * Default: 0
   * @throws {DomainError} If another program holds it (`DOMAIN_BUSY`)
   */
  lock(
    keys: readonly string[],
    options: { readonly what: string; readonly timeoutMs?: number | undefined },
  ): Promise<AsyncDisposable>;
  /**
   * Has another process watch over this one: if this one ends without `dismiss`, it undoes what the journal lists
   * (`recoverSnapshot`). Called before there is a journal, so that they are ready when there is. Must not make the
   * caller wait.
   * @throws {EnvironmentError} If it cannot be started
   */
  guard(): Guardian;
  /**
   * Another program that saves or migrates the domain at this moment, as far as can be known: it suspends and resumes
   * the guest, and takes the dirty log over.
   * @param options `onlyNew`: it was asked without that a moment ago, and found none; the guest is stopped now, so an answer must
   * be quick
   * @returns its pid; `undefined` when there is none
   */
  saver(domid: Domid, options?: { readonly onlyNew?: boolean }): Promise<number | undefined>;
  /** The configuration it would be saved with. */
  domainConfig(domid: Domid): Promise<LibxlConfig>;
  /** All disks of the domain, with what prevents a snapshot of each. */
  disks(domid: Domid, config: LibxlConfig): Promise<readonly DomainDisk[]>;
  /**
   * Finds what else prevents a snapshot of the domain: its device model, what its kernel says. Reads only. A toolstack that
   * leaves this out says that it knows nothing.
   */
  createFindings?(domain: DomainState, config: LibxlConfig): Promise<CreateFindings>;
  /** Opens the device model; `undefined` when the domain has none. */
  openDeviceModel(domid: Domid, config: LibxlConfig): Promise<DeviceModel | undefined>;
  /** Content of the EMULATOR_XENSTORE_DATA record; empty when there is nothing to save. HVM only. */
  emulatorXenstoreData(domid: Domid): Promise<Uint8Array>;
  /**
   * After external snapshots: makes xenstore and the stored configuration name the images now in use.
   * @param options `lockTimeoutMs`: how long another program that holds the configuration is waited for: the guest may
   * stand still
   */
  repointDisks(
    domid: Domid,
    images: readonly DiskImage[],
    options?: { readonly lockTimeoutMs?: number | undefined },
  ): Promise<void>;
  /** The images that domains and dom0's kernel have open, as far as can be known. Not those below them. */
  imagesInUse(): Promise<readonly ImageUse[]>;
  /**
   * What a restore would fail for, or may: all that can be known before the domain is destroyed for it. Reads only. A toolstack
   * that leaves this out says that it knows nothing.
   */
  restoreFindings?(facts: RestoreFacts): Promise<RestoreFindings>;
  /**
   * The disks of a restored domain that nobody serves, by their vdev with the image. It may wait a few seconds for them.
   * Without it nobody asks.
   */
  unconnectedDisks?(
    domid: Domid,
  ): Promise<readonly { readonly vdev: string; readonly path: string | undefined }[]>;
  /** Destroys the domain and waits until it no longer exists and its images are free. */
  destroy(domid: Domid, options: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<void>;
  /**
   * A process that `restore` has started on that file, for a domain with that uuid, and that may still make the domain: it
   * outlives an xlsnap that is killed. It may also be one that watches over a domain once that is restored.
   * @returns its pid; `undefined` when there is none
   */
  restorer?(memoryPath: string, uuid: string): Promise<number | undefined>;
  /**
   * Restores a domain, paused, from a save file. With `config`, that takes the place of the configuration in the
   * file's header; the file itself is not changed.
   * @returns the new domid.
   */
  restore(memoryPath: string, config: LibxlConfig | undefined, options: RestoreOptions): Promise<Domid>;
}

export interface RestoreOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called now and then with what has been read of the memory file. A toolstack that does not know need not call it. */
  readonly onProgress?: OnProgress | undefined;
}

/** Who watches over a create. */
export interface Guardian {
  /** Informs it of the journal, before that is created. */
  watch(journalPath: string): void;
  /** Is not needed any more. */
  dismiss(): void;
}

/** Disk images as files, nobody using them. */
export interface Images {
  /**
   * `undefined` when there is no such file. Works on an image in use. Does not look at what is below it.
   * @param format the image's format, in QEMU's words, as whoever uses it states it: libxl's configuration, QEMU, the image
   * above. Never guessed from the content, which a guest may have written.
   * @throws {DiskError} If the image is not of that format, or is neither a file nor a block device
   */
  info(path: string, format: string): Promise<ImageInfo | undefined>;
  /** Applies an internal snapshot: the image's content becomes that of the tag. */
  applyTag(path: string, tag: string): Promise<void>;
  createTag(path: string, tag: string): Promise<void>;
  deleteTag(path: string, tag: string): Promise<void>;
  /** Makes a new qcow2 overlay; refuses to replace a file. */
  createOverlay(path: string, backing: { readonly path: string; readonly format: string }): Promise<void>;
  /** Merges an overlay into its backing file; it is empty then. */
  commitOverlay(path: string, options?: { readonly onProgress?: OnProgress | undefined }): Promise<void>;
  /**
   * A process that was started on the image by one of these methods and is not over, as far as can be known: it outlives an
   * xlsnap that is killed.
   * @returns its pid; `undefined` when there is none
   */
  worker(path: string): Promise<number | undefined>;
}

/** The part of a host that needs no Xen: its image files, and where its snapshots are. */
export interface ImageHost {
  readonly images: Pick<Images, 'info'>;
  /** As in `Host`. */
  readonly storages?: readonly DiskStorage[];
  /** As in `Host`. */
  readonly snapshotDir?: string;
  /** As in `Toolstack`, where that can be known; none if no domain runs. */
  readonly imagesInUse?: () => Promise<readonly ImageUse[]>;
  /**
   * How many bytes of a file are shared with other files, by reflinks; undefined where that is not known, or takes too long to
   * find out. Default: unknown.
   */
  readonly sharedBytes?: (path: string) => Promise<number | undefined>;
}

/** All ports together. */
export interface Host extends AsyncDisposable {
  readonly hypervisor: Hypervisor;
  readonly toolstack: Toolstack;
  readonly images: Images;
  /** What can snapshot disks by itself; the first that a disk lies on is used. Default: none. */
  readonly storages?: readonly DiskStorage[];
  /**
   * Where memory files go whose cfgfile names none, and the journals of reverts. Default: `/var/lib/xen/snapshots`.
   * Absolute.
   */
  readonly snapshotDir?: string;
  /** Where the state of guests that are held is kept, on tmpfs. Absolute. Default: `/run/xlsnap`. */
  readonly runDirectory?: string;
  /** Clones memory files, so that a guest can be tracked. Default: it cannot. */
  readonly memoryClones?: MemoryClones | undefined;
  /** Where an open file has data, including what is not on the disk yet. Where nobody can tell, files are read whole. */
  readonly extents?: (fd: number) => Promise<Extents>;
  /** Computes checksums of memory files faster than WebAssembly. Default: WebAssembly does it. */
  readonly xxh3?: MakeXxh3 | undefined;
  /** Memory in bytes that may be filled with pages that wait to be written. Default: by `/proc/meminfo`. */
  readonly spareMemory?: (() => number) | undefined;
  /** Bytes that can be written to files before the writer has to wait for the disk. Default: by `/proc/vmstat`. */
  readonly dirtyRoom?: (() => number) | undefined;
}
