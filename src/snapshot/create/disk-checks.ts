/** Looks for what would make the snapshots of disks fail. Changes nothing. */
import { dirname } from 'node:path';
import { exists } from '../../core/files.ts';
import type { Problem } from '../../core/problem.ts';
import { imageOf, type QemuDisk, type SnapshotDisk } from '../../memfile/manifest.ts';
import { asFinding } from '../findings.ts';
import { howToRelease, isSameImage } from '../images/chain.ts';
import { infoOf } from '../images/identity.ts';
import type { Host } from '../ports.ts';
import { sharedProblems } from '../storage/find.ts';
import type { CreateContext } from './plan.ts';
import { qemuDisks } from './qemu-taker.ts';
import { storedDisks } from './stored-taker.ts';

/** The files that the snapshots of disks create: none of them may exist. */
export function newFilesOf(disks: readonly SnapshotDisk[]): readonly string[] {
  return disks.flatMap((disk) => (disk.kind === 'external' ? [disk.overlay] : []));
}

/** Where storages are going to have snapshots; each storage looks at that place by itself. */
export function placesOf(disks: readonly SnapshotDisk[]): readonly string[] {
  return storedDisks(disks).map(({ snapshot }) => snapshot);
}

/** Adds what it finds to the context's findings. */
export async function checkDisks(host: Host, context: CreateContext): Promise<void> {
  const { plan, findings } = context;
  await checkWriters(host, context);
  const stored = storedDisks(plan.disks);
  findings.push(...imagesTwice(stored.map(({ image }) => image)));
  await asFinding(findings, async () => {
    findings.push(...(await sharedProblems(host, stored, 'create', context.look)));
  });
  for (const disk of qemuDisks(plan.disks)) {
    // Only the memory file's directory is created.
    if (disk.kind === 'external' && !(await exists(dirname(disk.overlay)))) {
      findings.push({
        code: 'NO_DIRECTORY',
        message: `disk ${disk.vdev}: there is no directory ${dirname(disk.overlay)} for its overlay`,
        hint: 'create it first',
      });
    }
    // What cannot be snapshotted like that is a finding already, and may be of another format than the snapshot needs.
    const hindered = context.disks.find(({ vdev }) => vdev === disk.vdev)?.[disk.kind] ?? [];
    if (hindered.length === 0) await asFinding(findings, () => checkImage(host, disk, findings));
  }
}

async function checkImage(host: Host, disk: QemuDisk, findings: Problem[]): Promise<void> {
  const info = await infoOf(host, disk);
  if (info === undefined) {
    findings.push({
      code: 'NO_IMAGE',
      message: `disk ${disk.vdev}: its image ${imageOf(disk)} no longer exists`,
    });
  } else if (disk.kind === 'internal' && info.tags.includes(disk.tag)) {
    findings.push({
      code: 'TAG_EXISTS',
      message: `disk ${disk.vdev}: ${disk.image} already has a snapshot "${disk.tag}"`,
      hint: 'use another --name, or delete that snapshot: xlsnap snapshot-delete',
    });
  }
}

function imagesTwice(images: readonly string[]): readonly Problem[] {
  return images
    .filter((image, at) => images.indexOf(image) !== at)
    .map((image) => ({
      code: 'IMAGE_TWICE',
      message: `${image} is two disks of the domain: a revert could not put both back`,
      hint: 'leave one of them out of disks',
    }));
}

/**
 * Finds others that write to an image, such as domains that share a disk (`w!`): they are not suspended, so the disk would not be of
 * one instant.
 */
async function checkWriters(host: Host, { plan, domain, findings }: CreateContext): Promise<void> {
  if (plan.disks.length === 0) return;
  const others = (await host.toolstack.imagesInUse()).filter(
    ({ writable, domid }) => writable && domid !== domain.domid,
  );
  for (const disk of plan.disks) {
    const image = imageOf(disk);
    for (const other of others) {
      const { path, holder } = other;
      if (!(await isSameImage(path, image))) continue;
      findings.push({
        code: 'IMAGE_SHARED',
        message: `disk ${disk.vdev}: ${holder} writes to ${image} too, and is not suspended: the disk would not be of one instant`,
        hint: `leave ${disk.vdev} out of disks, or first ${howToRelease(other)}`,
      });
    }
  }
}
