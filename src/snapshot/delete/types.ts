/** Requests, plans and results of a delete. Plain data, as `--json` prints it. */
import type { SnapshotConfig } from '../../config/config.ts';
import type { Problem } from '../../core/problem.ts';
import type { PhaseTiming, StorageDisk } from '../../memfile/manifest.ts';
import type { RecoverResult } from '../api.ts';

export interface DeleteRequest {
  /** Name, uuid or domid. The domain need not run. */
  readonly domain: string;
  /** Names of snapshots, or their parsed cfgfiles. */
  readonly snapshots?: readonly (string | SnapshotConfig)[] | undefined;
  /** In place of `snapshots`: deletes all snapshots of the domain but this many, the newest. */
  readonly keep?: number | undefined;
  /**
   * Merges the overlays of external snapshots into their bases, on which the domain continues. It may run in the meantime.
   * Default: base and overlay stay, and the manifest with them, so that they can be merged later. Without `snapshots`: those
   * that earlier deletes have left.
   */
  readonly merge?: boolean | undefined;
  /** With `keep`: only snapshots whose names begin with this are counted and deleted. */
  readonly prefix?: string | undefined;
  /** Where to look besides the host's own directory. */
  readonly directories?: readonly string[] | undefined;
}

/** What happens to one disk of a deleted snapshot. */
export type DeleteDisk =
  | {
      readonly kind: 'internal';
      readonly vdev: string;
      readonly image: string;
      readonly tag: string;
      /** `keep`: there is nothing to delete. */
      readonly action: 'delete' | 'keep';
      /** Why it is kept. */
      readonly reason?: string;
    }
  | {
      readonly kind: 'external';
      readonly vdev: string;
      readonly base: string;
      readonly overlay: string;
      /** `merge`: what the overlay has goes into the base, and the overlay is removed. `keep`: both stay as they are. */
      readonly action: 'merge' | 'keep';
      /** Why they are kept. */
      readonly reason?: string;
    }
  | (StorageDisk & {
      /** `keep`: there is nothing to delete. */
      readonly action: 'delete' | 'keep';
      /** Why it is kept. */
      readonly reason?: string;
    });

/** A snapshot that is going to be deleted. */
export interface PlannedDelete {
  readonly name: string;
  readonly domain: string;
  readonly uuid: string;
  /** ISO 8601, UTC. */
  readonly created: string;
  readonly memoryPath: string;
  /** Those that exist, in the order in which they are removed. */
  readonly files: readonly string[];
  /** Bytes that the file system has allocated for them. */
  readonly allocatedBytes: number;
  readonly disks: readonly DeleteDisk[];
  /** Present if the manifest stays, since it says which overlay is to be merged later: its path. */
  readonly keptManifest?: string;
}

/** A snapshot that cannot be deleted now. */
export interface RefusedDelete {
  readonly name: string;
  readonly created: string;
  readonly memoryPath: string;
  /** Why not. */
  readonly problems: readonly Problem[];
}

/** What a delete is going to do; `--dry-run` prints it. */
export interface DeletePlan {
  /** As given. */
  readonly domain: string;
  /** Absent if the domain does not run. */
  readonly domid: number | undefined;
  /** Newest first, in the order in which they are deleted. */
  readonly snapshots: readonly PlannedDelete[];
  /** Unless `snapshots` are given: those that would be deleted, but cannot be. */
  readonly refused: readonly RefusedDelete[];
  /** Journals of deletes that were killed: these are finished first. */
  readonly unfinished: readonly string[];
  readonly warnings: readonly string[];
}

export interface DeleteResult {
  readonly plan: DeletePlan;
  /** Deletes that had been killed, and are finished now. */
  readonly finished: readonly RecoverResult[];
  readonly phases: readonly PhaseTiming[];
  readonly totalSeconds: number;
  readonly warnings: readonly string[];
}
