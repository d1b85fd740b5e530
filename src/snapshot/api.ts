/** Requests, plans and results of create, revert and recover. Plain data, as `--json` prints it. */

import type { Writable } from 'node:stream';
import type { SnapshotConfig } from '../config/config.ts';
import type { GuestType, XenVersion } from '../core/xen.ts';
import type { PhaseTiming, SnapshotDisk, StorageDisk, UnknownDrive } from '../memfile/manifest.ts';
import type { Guardian } from './ports.ts';
import type { Risk, RiskName } from './risks.ts';

/** Other ways to copy memory than the usual, only for measuring (`xlsnap bench`): the defaults are the fastest. */
export interface Tuning {
  /** Pages in one record, which are copied together: 1022, or 510. */
  readonly batchPages?: 510 | 1022;
  /** Records under way at once. */
  readonly inFlight?: number;
  /** Leaves pages of zeros as holes in the file. Default: true. Ignored for streams. */
  readonly sparse?: boolean;
  /** Computes the manifest's checksums. Default: true. */
  readonly checksums?: boolean;
  /**
   * Writes the pages past the page cache (O_DIRECT), where the file system can. Default: if the guest has far more memory
   * than the kernel takes into its page cache before it makes writers wait.
   */
  readonly direct?: boolean;
}

/**
 * Where a program wants the memory as a stream: bytes in order, in the format of `xl save`. A function gets pieces that are
 * its own only until its promise is settled; the next piece comes after that. What it throws ends the create, which
 * is undone. An interrupted create does not wait for it, except for the last piece: with that the snapshot is whole. A Writable
 * is neither ended nor destroyed.
 */
export type MemorySink = ((bytes: Uint8Array) => Promise<void>) | Writable;

export interface CreateRequest {
  /** Name or domid. */
  readonly domain: string;
  /** The parsed cfgfile; without it the defaults hold. */
  readonly config?: SnapshotConfig | undefined;
  /** `--name`; the cfgfile's name takes precedence. */
  readonly name?: string | undefined;
  /** Copies the memory while the guest runs, and stops it only for what it wrote in the meantime. */
  readonly live?: boolean | undefined;
  /**
   * Live only. True: the guest is tracked from this snapshot on: its dirty log stays on, and the next live snapshot copies only
   * what was written since. False: copies all memory although the guest is tracked. Unless it is true, tracking ends. Default: the
   * snapshot copies only what was written if the guest is tracked, and tracking ends.
   */
  readonly track?: boolean | undefined;
  /** Live only: maximum number of rounds while the guest runs, 1 to 49. Default: 5. */
  readonly maxRounds?: number | undefined;
  /** Live only: stops the guest as soon as the downtime would be about this long. Default: as short as possible. */
  readonly targetDowntimeMs?: number | undefined;
  /** Live only: gives up rather than stop the guest for longer than this. */
  readonly maxDowntimeMs?: number | undefined;
  /** How long the guest may take to suspend. Default: 60 000. */
  readonly suspendTimeoutMs?: number | undefined;
  /** Waits until the memory file is on the disk, before it gets its name. Default: true. */
  readonly sync?: boolean | undefined;
  /** Gets the memory in place of a file; the configuration must not have a `memoryPath` then. */
  readonly sink?: MemorySink | undefined;
  readonly tuning?: Tuning | undefined;
  /**
   * Has another process undo everything if this one is killed. Default: true. Otherwise `recover` can do it later. A guardian that
   * has been started already is ready sooner; it is dismissed at the end.
   */
  readonly guardian?: boolean | Guardian | undefined;
  /** Where memory files go if the configuration names none. Default: the host's directory. */
  readonly snapshotDir?: string | undefined;
}

/** When the rounds of a live snapshot end. */
export interface PrecopyLimits {
  /** Rounds while the guest runs, at most; the first copies all memory. */
  readonly maxRounds: number;
  /** Stops the guest as soon as the rest can be copied in this many milliseconds. */
  readonly targetDowntimeMs?: number;
  /** The guest is not stopped when copying the rest would take longer. */
  readonly maxDowntimeMs?: number;
}

/** Everything that a create will do; `--dry-run` prints it. */
export interface SnapshotPlan {
  readonly name: string;
  readonly description: string;
  readonly domid: number;
  readonly uuid: string;
  readonly domain: string;
  readonly type: GuestType;
  /** How its memory is copied while it runs; absent if the guest is stopped for copying. */
  readonly precopy?: PrecopyLimits;
  readonly live: boolean;
  /** The guest is tracked afterwards, see `CreateRequest.track`. */
  readonly tracking: boolean;
  readonly state: 'running' | 'paused';
  /** Of the memory file or the stream; `-` for a sink. */
  readonly memoryPath: string;
  /** The memory goes to a pipe, a device or a sink. Then there is neither a cfgfile nor a manifest. */
  readonly stream: boolean;
  readonly configPath?: string;
  readonly manifestPath?: string;
  readonly memoryBytes: number;
  readonly disks: readonly SnapshotDisk[];
  /** Writable disks that are not part of the snapshot and keep changing: the risk `disk-uncovered` of a revert. */
  readonly uncovered: readonly string[];
  /** Drives that the guest writes to and that its configuration does not name: no snapshot has them. */
  readonly unknownDrives: readonly UnknownDrive[];
  readonly suspendTimeoutMs: number;
  readonly sync: boolean;
  readonly warnings: readonly string[];
}

/** One pass over the memory of a running guest; the last one over that of the suspended guest. */
export interface CopyRound {
  /** Pages copied. */
  readonly pages: number;
  readonly seconds: number;
  /** Pages that were written in the meantime, and have to be copied again. */
  readonly dirtyAfter: number;
}

/** Why all memory was copied, although the guest was tracked, or is from now on. */
export interface FullCopy {
  readonly full:
    | 'NOT_TRACKED'
    | 'OTHER_LIFE'
    | 'LOG_BROKEN'
    | 'PARENT_GONE'
    | 'PARENT_CHANGED'
    | 'PARENT_LAYOUT'
    | 'NOT_CLONED';
  readonly message: string;
}

/** The memory file began as a clone of an earlier one, and got only what was written since. */
export interface TrackedCopy {
  /** Absolute path of the earlier one. It is not needed any more. */
  readonly parent: string;
  /** Pages that were written to the clone; a page that was written in several rounds counts each time. */
  readonly pages: number;
}

export interface CreateResult {
  readonly plan: SnapshotPlan;
  readonly xen: XenVersion;
  readonly phases: readonly PhaseTiming[];
  /**
   * Live only: the rounds of the phase `precopy`, and the last one, in the phase `memory`. That phase is the copying of
   * pages alone, with the guest stopped; its other state is read and written in the phase `contexts`.
   */
  readonly rounds?: readonly CopyRound[];
  /** Which part of the memory was copied, if the guest was tracked before, or was to be. */
  readonly tracked?: TrackedCopy | FullCopy;
  /** Whether the guest is tracked now. Absent if it was neither tracked before nor to be. */
  readonly tracking?: boolean;
  /**
   * From the guest's being suspended to its being resumed, as its own clock shows it: neither the wait for it to suspend
   * (phase `suspend`) nor what comes afterwards (phase `finish`) is part of it.
   */
  readonly downtimeSeconds: number;
  /** Of the whole call, checks included. */
  readonly totalSeconds: number;
  /** Length of the memory file, bytes. */
  readonly fileBytes: number;
  /** Bytes that the file system has allocated for it. */
  readonly allocatedBytes: number;
  /**
   * Pages with data in the file, and how many of them are zeros that take no space. In a stream no page is left out, and
   * one that was written to while it was copied counts each time.
   */
  readonly pages: number;
  readonly zeroPages: number;
  /**
   * Live: pages that were written to the file or stream while the guest stood still, since there was no memory to keep them
   * until it runs again. A warning says so, too.
   */
  readonly pagesWrittenStopped?: number;
  readonly warnings: readonly string[];
}

/** What `stopTracking` has done. */
export interface TrackOffResult {
  /** The domain's name. */
  readonly domain: string;
  readonly domid: number;
  /** Whether it was tracked before. */
  readonly tracked: boolean;
  readonly warnings: readonly string[];
}

export interface RevertRequest {
  /** Name or domid. */
  readonly domain: string;
  readonly config: SnapshotConfig;
  /** Makes the domain run, whatever its state at the snapshot. */
  readonly running?: boolean | undefined;
  /** Reverts although that is risky, whatever the risks are. */
  readonly force?: boolean | undefined;
  /** Reverts although there are these risks; another one is still refused. */
  readonly accept?: readonly RiskName[] | undefined;
  /** Keeps the overlays that an external revert replaces. */
  readonly keep?: boolean | undefined;
  /** How long destroying may take. Default: 60 000. */
  readonly timeoutMs?: number | undefined;
  /** How the command line names the snapshot, if not by its cfgfile; the command in a RiskError repeats it. */
  readonly named?: string | undefined;
  /** Options of the command line that change nothing about the revert; the command in a RiskError repeats them. */
  readonly otherOptions?: readonly string[] | undefined;
}

/** What a revert is going to do; `--dry-run` prints it. */
export interface RevertPlan {
  readonly name: string;
  readonly domain: string;
  readonly uuid: string;
  /** When the snapshot was taken, ISO 8601, UTC. What the guest has written since is lost. Absent without a manifest. */
  readonly created?: string;
  /** The running domain that will be destroyed; absent when none runs. */
  readonly domid: number | undefined;
  readonly memoryPath: string;
  /** State after the revert. */
  readonly state: 'running' | 'paused';
  readonly disks: readonly RevertDisk[];
  /** What does not hinder the revert. */
  readonly warnings: readonly string[];
  /** Why the revert is risky. All of them were accepted, by `force` or `accept`. */
  readonly risks: readonly Risk[];
}

/** What happens to one disk. */
export type RevertDisk =
  | { readonly kind: 'internal'; readonly vdev: string; readonly image: string; readonly tag: string }
  | {
      readonly kind: 'external';
      readonly vdev: string;
      readonly base: string;
      readonly baseFormat: string;
      /** The fresh overlay. */
      readonly overlay: string;
      /** The overlay that it replaces, when there is one. */
      readonly replaced: string | undefined;
    }
  | StorageDisk;

export interface RevertResult {
  readonly plan: RevertPlan;
  /** Domid of the restored domain. */
  readonly domid: number;
  readonly phases: readonly PhaseTiming[];
  readonly totalSeconds: number;
  /** From the beginning of the destroy until the domain ran again, or was back paused. Absent if it did not run before. */
  readonly awaySeconds?: number;
  /** Files that were replaced and kept aside (`keep`). */
  readonly kept: readonly string[];
  readonly warnings: readonly string[];
}

export interface RecoverRequest {
  /** A memory file or its journal; it need not be there. */
  readonly path: string;
  /** How long to wait for an operation on the domain that is still running. Default: 0. */
  readonly lockTimeoutMs?: number | undefined;
}

/** What was found of a create, revert or delete whose process was killed, and what has become of it. */
export interface RecoverResult {
  readonly journal: string;
  /** What was killed. Absent when there is no journal, or it does not say. */
  readonly kind?: 'create' | 'revert' | 'delete';
  /**
   * `nothing`: there is no journal.
   *
   * Of a create: `whole`: the snapshot is whole, only the journal was left. `undone`: the snapshot was not whole, and
   * nothing of it is left.
   *
   * Of a revert: `whole`: the domain had been restored. `undone`: the disks are as before it. `reverted`: the disks are as
   * at the snapshot, and what they were before is kept: the domain may be restored, but only in part.
   *
   * Of a delete: `deleted`: it is finished, and nothing of the snapshot is left.
   */
  readonly outcome: 'nothing' | 'whole' | 'undone' | 'reverted' | 'deleted';
  /** The snapshot's name. */
  readonly name?: string;
  /** The domain's name. */
  readonly domain?: string;
  /** How the domain is now. */
  readonly guest?: 'running' | 'paused' | 'shut down' | 'gone';
  /** What was undone, in order. */
  readonly undone: readonly string[];
  /** Of a revert: what there still is of the former disks: paths, and `snapshot TAG of IMAGE`. */
  readonly kept?: readonly string[];
  /**
   * Of a revert: domid of a paused domain that the killed restore has made, or has only begun to make: nobody can tell which.
   * The journal stays as long as it is there like that.
   */
  readonly halfBuilt?: number;
  /** Of a revert that is not whole: the command that continues, for a shell. Absent when the cfgfile is not known. */
  readonly next?: string;
}
