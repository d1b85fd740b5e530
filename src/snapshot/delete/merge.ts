/** Merges the overlay of an external snapshot into its base: what prevents that, and the step itself. */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { CallOptions } from '../../core/call-options.ts';
import { DiskError, EnvironmentError, RecoverError } from '../../core/errors.ts';
import { syncFile } from '../../core/files.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { ExternalDisk } from '../../memfile/manifest.ts';
import { howToRelease, isSameImage, truePath } from '../images/chain.ts';
import { freeImages } from '../images/free.ts';
import { overlaysOn } from '../images/overlays-on.ts';
import { waitForWorker } from '../images/worker.ts';
import type { DomainState, Host } from '../ports.ts';
import type { DeleteRun } from './action.ts';
import type { DeleteStep, DoomedOverlay } from './journal.ts';
import { allUsersOf, type Merged, ownDomain } from './users.ts';

/** What is expected of the images by the time an overlay is merged. */
interface Foreseen {
  readonly merged?: Merged;
  /** Tags of the overlay that will have been deleted. */
  readonly untagged?: readonly string[];
  /** Whether the domain may be on the base already. */
  readonly switched?: boolean;
}

/**
 * Finds what prevents the merge of an overlay, by what there is: tags in it, other overlays on it or on its base, and
 * programs that have the base open and are not the locked domain.
 * @param keys the names and uuids that are locked
 */
export async function mergeObstacles(
  host: Host,
  { vdev, base, overlay }: ExternalDisk,
  keys: readonly string[],
  { merged = new Map(), untagged = [], switched = false }: Foreseen = {},
): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  const tags =
    (await host.images.info(overlay, 'qcow2'))?.tags.filter((tag) => !untagged.includes(tag)) ?? [];
  if (tags.length > 0) {
    problems.push({
      code: 'SNAPSHOT_NEEDED',
      message: `disk ${vdev}: ${overlay} has ${tags.length === 1 ? 'the snapshot' : 'the snapshots'} ${tags.join(', ')}, which would be lost with it`,
      hint: 'delete those first',
    });
  }
  const users = await allUsersOf(host, base, merged);
  // A loop device has the overlay open without its base.
  for (const user of await allUsersOf(host, overlay, merged)) {
    if (!users.some(({ holder, path }) => holder === user.holder && path === user.path)) users.push(user);
  }
  for (const user of users) {
    const onBase = await isSameImage(user.path, base);
    const expected = onBase ? switched : await isSameImage(user.path, overlay);
    if (expected && (await ownDomain(host, user, keys)) !== undefined) continue;
    problems.push({
      code: 'IMAGE_IN_USE',
      message: `disk ${vdev}: ${user.holder} uses ${user.path}${onBase ? '' : `, which depends on ${base}`}: ${overlay} cannot be merged`,
      hint: `${howToRelease(user)} first, or delete the later snapshots first`,
    });
  }
  const images = await Promise.all([base, overlay].map(truePath));
  for (const other of await overlaysOn(images, [...images, base, overlay].map(dirname))) {
    if (other.path === images[1] || merged.has(other.path)) continue;
    problems.push({
      code: 'SNAPSHOT_NEEDED',
      message: `disk ${vdev}: ${other.path} depends on ${other.base}, too, and would be spoilt`,
      hint: `if it is of no use, rm ${shellQuote(other.path)}`,
    });
  }
  return problems;
}

/** Notes which files a merge is about. @throws {Error} Node's own, if one of them is missing */
export async function doomOverlay(disk: ExternalDisk): Promise<DoomedOverlay> {
  const [{ ino: inode }, base] = await Promise.all([stat(disk.overlay), stat(disk.base)]);
  return omitUndefined({ ...disk, inode, baseInode: base.isFile() ? base.ino : undefined });
}

/**
 * Merges an overlay into its base, and removes it: by the QEMU of the domain that is on it, or by qemu-img if no program has
 * the base open. Continues what was begun.
 * @returns whether there was anything to do
 */
export async function mergeAway(host: Host, doomed: DoomedOverlay, run: DeleteRun): Promise<boolean> {
  const { vdev, base, overlay, inode } = doomed;
  // One that a killed xlsnap has started may be merging.
  await waitForWorker(host, overlay);
  if ((await inodeOf(overlay)) !== inode) return false;
  const last = run.steps.findLast((step) => step.vdev === vdev);
  if (last?.step !== 'merged') {
    if (doomed.baseInode !== undefined && (await inodeOf(base)) !== doomed.baseInode) {
      throw new RecoverError('BASE_REPLACED', `${base} is no longer the image that ${overlay} was on`, {
        hint: `if ${overlay} is of no use any more, rm ${shellQuote(overlay)}, then run the same command again`,
      });
    }
    const [obstacle] = await mergeObstacles(host, doomed, run.keys, {
      switched: last?.step === 'switching',
    });
    if (obstacle !== undefined) {
      throw new RecoverError(obstacle.code, obstacle.message, { hint: obstacle.hint });
    }
    const [user] = await allUsersOf(host, base);
    const own = user === undefined ? undefined : await ownDomain(host, user, run.keys);
    if (own === undefined) await mergeIdle(host, doomed, last, run);
    else await mergeLive(host, doomed, own, last, run);
    await syncFile(base);
    await run.note({ step: 'merged', vdev });
  }
  await freeImages(host).remove(overlay);
  return true;
}

/** Merges while nobody has the images open. */
async function mergeIdle(
  host: Host,
  { vdev, base, overlay }: DoomedOverlay,
  last: DeleteStep | undefined,
  { note, options }: DeleteRun,
): Promise<void> {
  if (last?.step === 'switching') throw unknownNewest(overlay, base);
  await note({ step: 'merging', vdev });
  await freeImages(host).commitOverlay(overlay, base, { onProgress: progressOf(options) });
}

/** Merges while the domain runs, or is paused. */
async function mergeLive(
  host: Host,
  { vdev, base, baseFormat, overlay }: DoomedOverlay,
  { domid, name }: DomainState,
  last: DeleteStep | undefined,
  { note, options }: DeleteRun,
): Promise<void> {
  await using deviceModel = await host.toolstack.openDeviceModel(domid, {});
  if (deviceModel === undefined) {
    throw new EnvironmentError('NO_DEVICE_MODEL', 'its QEMU cannot be reached', { domid });
  }
  const used = deviceModel.imageOf(vdev);
  if (used !== undefined && (await isSameImage(used, overlay))) {
    await note({ step: 'merging', vdev });
    const merge = { vdev, overlay: used, base };
    const done = await deviceModel.mergeOverlay(merge, {
      signal: options.signal,
      onProgress: progressOf(options),
      onWarning: (text) => options.reporter?.log('warning', text),
      beforeSwitch: () => note({ step: 'switching', vdev, domid }),
    });
    if (!done) throw otherImage(name, domid, vdev, overlay);
  } else if (used === undefined || !(await isSameImage(used, base))) {
    throw otherImage(name, domid, vdev, overlay);
  } else if (last?.step !== 'switching' || last.domid !== domid) {
    // Another life of the domain, which was started on the base.
    throw unknownNewest(overlay, base);
  } else {
    // It is merged, and may still be open.
    await deviceModel.mergeOverlay({ vdev, overlay, base });
  }
  await host.toolstack.repointDisks(domid, [{ vdev, path: base, format: baseFormat }]);
}

function otherImage(domain: string, domid: number, vdev: string, overlay: string): DiskError {
  return new DiskError('OTHER_IMAGE', `${overlay} is no longer disk ${vdev} of domain ${domain}`, {
    domid,
    hint: 'shut the domain down, then run the same command again',
  });
}

function unknownNewest(overlay: string, base: string): RecoverError {
  return new RecoverError(
    'NEWEST_UNKNOWN',
    `the merge of ${overlay} into ${base} was killed, and the domain was restarted since: which of them has its newest data cannot be known`,
    {
      hint: `find out with qemu-img compare ${shellQuote(overlay)} ${shellQuote(base)}; to continue on ${base}, rm ${shellQuote(overlay)} and run the same command again`,
    },
  );
}

function progressOf({ reporter }: CallOptions): ((done: number, total: number) => void) | undefined {
  return reporter && ((done, total) => reporter.progress({ phase: 'merge', done, total, unit: 'bytes' }));
}

async function inodeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => undefined))?.ino;
}
