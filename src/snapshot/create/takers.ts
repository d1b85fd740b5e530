/**
 * How the disks of a snapshot are taken: by their storages, or by QEMU. Nothing else in a create knows the kinds of disks once they
 * are planned. What `DiskStorage` says about `prepare`, `flush`, `take` and `finish` holds for all.
 */
import type { DiskIdentity } from '../../memfile/manifest.ts';
import type { SnapshotPlan } from '../api.ts';
import type { CreateJournal } from './journal.ts';
import type { CreateRun } from './open.ts';
import { QemuTaker, qemuDisks } from './qemu-taker.ts';
import { StoredTaker, storedDisks } from './stored-taker.ts';

/** Takes the disks of one kind. Each step that takes effect registers its undo. */
export interface Taker {
  /** Whether `flush` has anything to do. */
  readonly flushes: boolean;
  /** Does everything slow, and reserves names. The guest runs. */
  prepare(): Promise<void>;
  /** Writes out what is cached of the disks. The guest runs. */
  flush(): Promise<void>;
  /** Takes the snapshots. The guest is suspended. */
  take(): Promise<void>;
  /** Makes them durable. The guest runs again. */
  complete(): Promise<void>;
  /** What they are known by from now on, for the manifest. Call `complete` first. */
  identify(): Promise<readonly DiskIdentity[]>;
}

/**
 * The takers of a plan's disks, in the order in which they take: QEMU's transaction is the commit point. It takes all of its disks
 * or none, and can be undone best.
 */
export function takersOf(run: CreateRun, journal: CreateJournal): readonly Taker[] {
  const { plan } = run.context;
  const [stored, qemu] = [storedDisks(plan.disks), qemuDisks(plan.disks)];
  const takers: Taker[] = [];
  if (stored.length > 0) takers.push(new StoredTaker(run, journal, stored));
  if (qemu.length > 0 && run.deviceModel !== undefined) {
    takers.push(new QemuTaker(run, journal, qemu, run.deviceModel));
  }
  return takers;
}

/** Whether a create needs the domain's QEMU. */
export function needsDeviceModel({ type, disks }: SnapshotPlan): boolean {
  return type === 'hvm' || qemuDisks(disks).length > 0;
}
