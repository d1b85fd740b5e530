/** Takes the disks that their storages snapshot, one by one: nobody writes in the meantime. */
import { shellQuote } from '../../core/shell-quote.ts';
import type { DiskIdentity, SnapshotDisk, StorageDisk } from '../../memfile/manifest.ts';
import type { Host } from '../ports.ts';
import { storageOf } from '../storage/find.ts';
import type { PreparedSnapshot } from '../storage/port.ts';
import { type CreateJournal, noteFor } from './journal.ts';
import type { CreateRun } from './open.ts';
import type { Taker } from './takers.ts';
import { planDiskUndo } from './undo.ts';

export class StoredTaker implements Taker {
  readonly flushes = true;
  readonly #run: CreateRun;
  readonly #journal: CreateJournal;
  readonly #disks: readonly StorageDisk[];
  /** What the storages have noted, by vdev. */
  readonly #prepared = new Map<string, string>();
  readonly #identities: DiskIdentity[] = [];

  constructor(run: CreateRun, journal: CreateJournal, disks: readonly StorageDisk[]) {
    this.#run = run;
    this.#journal = journal;
    this.#disks = disks;
  }

  async prepare(): Promise<void> {
    const { host, phases, context, mark } = this.#run;
    for (const disk of this.#disks) {
      phases.checkpoint();
      const { vdev } = disk;
      planDiskUndo(phases, vdev, storedByHand(host, disk), () =>
        undoStored(host, disk, { mark, made: this.#prepared.get(vdev) }),
      );
      const note = async (made: string): Promise<void> => {
        this.#prepared.set(vdev, made);
        await noteFor(context.plan, this.#journal, { step: 'prepared', vdev, made });
      };
      await storageOf(host, disk).prepare(disk, { mark, note });
    }
  }

  async flush(): Promise<void> {
    await this.#each(async (disk) => await storageOf(this.#run.host, disk).flush(disk));
  }

  async take(): Promise<void> {
    await this.#each(
      async (disk) => await storageOf(this.#run.host, disk).take(disk, this.#prepared.get(disk.vdev)),
    );
  }

  async complete(): Promise<void> {
    for (const disk of this.#disks) {
      const { vdev } = disk;
      const storage = storageOf(this.#run.host, disk);
      const { identity, virtualSize } = await storage.finish(disk, this.#prepared.get(vdev));
      this.#identities.push({ vdev, virtualSize, snapshot: identity });
    }
  }

  identify(): Promise<readonly DiskIdentity[]> {
    return Promise.resolve(this.#identities);
  }

  async #each(step: (disk: StorageDisk) => Promise<void>): Promise<void> {
    for (const disk of this.#disks) {
      await step(disk);
      this.#run.phases.checkpoint();
    }
  }
}

export function storedDisks(disks: readonly SnapshotDisk[]): readonly StorageDisk[] {
  return disks.filter((disk) => disk.kind === 'storage');
}

/**
 * Undoes what a storage has prepared or taken for a disk.
 * @param prepared what the storage has noted about it
 */
export async function undoStored(
  host: Host,
  disk: StorageDisk,
  prepared: PreparedSnapshot,
): Promise<boolean> {
  return await storageOf(host, disk).undo(disk, prepared);
}

/** How to undo it by hand, for a shell. */
export function storedByHand({ storages = [] }: Host, disk: StorageDisk): string {
  const storage = storages.find(({ name }) => name === disk.storage);
  return storage?.byHand(disk, 'undo', '') ?? `remove ${shellQuote(disk.snapshot)}`;
}
