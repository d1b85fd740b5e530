/**
 * Undoes each step of a create: for the process that took it, and for another one that has its journal. A function called
 * `plan…Undo` only registers an undo in `phases`, which runs if the create fails.
 */

import { createHash } from 'node:crypto';
import { readFile, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Domid } from '../../core/brand.ts';
import { EnvironmentError, errnoCode, type XlsnapError } from '../../core/errors.ts';
import { unmakeDirectory } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { SnapshotDisk } from '../../memfile/manifest.ts';
import type { DirtyLog } from '../guest/dirty-log.ts';
import type { GuestHold } from '../guest/hold.ts';
import { wasDestroyed } from '../guest/state.ts';
import { isThere, undoIdleDisk } from '../images/idle-disk.ts';
import { partialOf } from '../output/file.ts';
import type { Phases } from '../phases.ts';
import type { DeviceModel, DiskAction, Host } from '../ports.ts';

/** Maximum size of a cfgfile or a manifest; a larger file is not ours. */
const MAX_TEXT_BYTES = 4 * 1024 * 1024;

/**
 * Registers the removal of the directories that were created for a file.
 * @returns a function that forgets this undo
 */
export function planDirectoryUndo(phases: Phases, made: string, memoryPath: string): () => void {
  return phases.onUndo(`removed the directory ${made}`, `rmdir ${made}`, () =>
    unmakeDirectory(dirname(memoryPath), made),
  );
}

/**
 * Registers the removal of the journal. It stays if something could not be undone.
 * @returns a function that forgets this undo
 */
export function planJournalUndo(
  phases: Phases,
  path: string,
  memoryPath: string,
  journal: { keep(): Promise<void>; remove(): Promise<void> },
): () => void {
  return phases.onUndo(`removed ${path}`, `xlsnap recover ${shellQuote(memoryPath)}`, async (failed) => {
    if (failed) {
      await journal.keep();
      throw new EnvironmentError('JOURNAL_KEPT', 'it says what is left to undo');
    }
    await journal.remove();
    return false;
  });
}

/** Registers the removal of the memory file, which is not complete. */
export function planPartialUndo(phases: Phases, memoryPath: string, discard: () => Promise<unknown>): void {
  const partial = partialOf(memoryPath);
  phases.onUndo(`removed ${partial}`, `rm ${shellQuote(partial)}`, discard);
}

/**
 * Registers turning log-dirty mode off.
 * @param noted is called when the log is off, or no longer ours to turn off: doing so later could disturb another program
 */
export function planLogUndo(
  phases: Phases,
  host: Host,
  domid: Domid,
  log: DirtyLog,
  noted: () => void,
): void {
  phases.onUndo(
    'turned log-dirty mode off',
    `xl save -c of domain ${domid} turns it off; until then the guest is a little slower`,
    async () => {
      const { ended, warning } = await endLog(host, domid, log);
      noted();
      if (warning !== undefined) phases.reporter.log('warning', warning);
      return ended;
    },
  );
}

/**
 * Turns log-dirty mode off, unless the domain no longer exists, or another program that saves it has taken the log over:
 * it would miss what the guest writes, and turns the log off itself.
 * @returns `ended`: whether it was turned off; `warning`: that the guest has lost its QEMU
 */
export async function endLog(
  host: Host,
  domid: Domid,
  log: DirtyLog,
): Promise<{ readonly ended: boolean; readonly warning?: string }> {
  const isGone = (): Promise<boolean> => wasDestroyed(host, domid).catch(() => false);
  if (await isGone()) return { ended: false };
  if ((await host.toolstack.saver(domid).catch(() => undefined)) !== undefined) return { ended: false };
  let dead: XlsnapError | undefined;
  try {
    dead = await log.stop();
  } catch (error) {
    // Destroyed in between.
    if (await isGone()) return { ended: false };
    throw error;
  }
  if (dead === undefined) return { ended: true };
  return { ended: true, warning: `${dead.message}: ${dead.hint ?? 'the guest cannot be used without it'}` };
}

/**
 * Registers resuming the guest, which comes before all other undos.
 * @returns a function that forgets this undo
 */
export function planHoldUndo(
  phases: Phases,
  state: 'running' | 'paused',
  domid: Domid,
  hold: GuestHold,
): () => void {
  return phases.onUndo(
    state === 'paused' ? 'left the guest paused, as it was' : 'resumed the guest',
    `xl list ${domid} shows its state; xl unpause ${domid}, or xl destroy ${domid} if it stays suspended`,
    () => hold.release(),
    { first: true },
  );
}

/** Registers the removal of the guest's record, which stays if something could not be undone. */
export function planRecordUndo(
  phases: Phases,
  domid: Domid,
  record: { close(): void; remove(): void },
  announce: () => Promise<unknown>,
): void {
  phases.onUndo(
    'reported to xenstored that the guest runs',
    `xlsnap recover; until then xl may not notice that domain ${domid} shuts down`,
    async (failed) => {
      await announce();
      if (failed) record.close();
      else record.remove();
      return false;
    },
  );
}

/** Registers one undo for each disk, so that one that fails does not prevent the others. */
export function planDiskUndos(
  phases: Phases,
  disks: readonly SnapshotDisk[],
  undoOne: (disk: SnapshotDisk) => Promise<unknown>,
): void {
  for (const disk of disks) {
    phases.onUndo(`removed the snapshot of disk ${disk.vdev}`, byHand(disk), () => undoOne(disk));
  }
}

/** Undoes one disk's snapshot, if it was taken: by its QEMU, or without if the domain has been destroyed since. */
export async function undoTakenDisk(
  host: Host,
  domid: Domid,
  deviceModel: DeviceModel,
  disk: SnapshotDisk,
): Promise<unknown> {
  if (await wasDestroyed(host, domid)) return await undoIdleDisk(host, disk, { merge: true });
  try {
    return await undoDisk(host, domid, deviceModel, disk);
  } catch (error) {
    // A QEMU that died before it took any leaves nothing to undo.
    if (await isThere(host, disk)) throw error;
    return false;
  }
}

/** Undoes one disk's snapshot while the domain exists. @returns whether there was one */
export async function undoDisk(
  host: Host,
  domid: Domid,
  deviceModel: DeviceModel,
  disk: SnapshotDisk,
): Promise<boolean> {
  // In this order: if an overlay cannot be merged, the configuration keeps naming it.
  const undone = await deviceModel.undoSnapshots([toAction(disk)]);
  if (disk.kind === 'external') {
    await host.toolstack.repointDisks(domid, [{ vdev: disk.vdev, path: disk.base, format: disk.baseFormat }]);
  }
  return undone.length > 0;
}

/** Registers the removal of a small file; another file in its place stays. */
export function planTextUndo(phases: Phases, path: string, sha256: string): void {
  phases.onUndo(`removed ${path}`, `rm ${shellQuote(path)}`, async () => {
    if (!(await isText(path, sha256))) return false;
    await rm(path, { force: true });
    return true;
  });
}

async function isText(path: string, sha256: string): Promise<boolean> {
  try {
    const { size } = await stat(path);
    return size <= MAX_TEXT_BYTES && digest(await readFile(path)) === sha256;
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Returns the SHA-256 in hexadecimal. */
export function digest(text: string | Uint8Array): string {
  return createHash('sha256').update(text).digest('hex');
}

export function toAction(disk: SnapshotDisk): DiskAction {
  return disk.kind === 'internal'
    ? { kind: 'internal', vdev: disk.vdev, tag: disk.tag }
    : { kind: 'external', vdev: disk.vdev, path: disk.overlay };
}

function byHand(disk: SnapshotDisk): string {
  return disk.kind === 'internal'
    ? `with the domain down, qemu-img snapshot -d ${shellQuote(disk.tag)} ${shellQuote(disk.image)}`
    : `the domain keeps using ${disk.overlay}: do not remove it`;
}
